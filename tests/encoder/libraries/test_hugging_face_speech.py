"""Trained weights and real speech: transformers' models write the same text with our encoder."""

import copy

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    pipeline,
)

import melfront
from melfront import encoder

QUOTE = "ask not what your country can do for you"
CLIPS = {"jfk": 1, "44 s": 4}  # how often the clip of 11 s is repeated
CALLS = {
    "greedy": ("jfk", {}),
    "beam search": ("jfk", {"generate_kwargs": {"num_beams": 3}}),
    "timestamps": ("jfk", {"return_timestamps": True}),
    "words": ("jfk", {"return_timestamps": "word"}),
    "sequential, words": ("44 s", {"return_timestamps": "word"}),
    "chunked, words": ("44 s", {"chunk_length_s": 30, "return_timestamps": "word"}),
}
# What the generation config of the whole checkpoint has, and of this folder has not.
TIMESTAMPS = {
    "no_timestamps_token_id": 50362,
    "alignment_heads": [[1, 0], [2, 0], [2, 5], [3, 0], [3, 1], [3, 2], [3, 3], [3, 4]],
    "is_multilingual": False,
}


@pytest.fixture(scope="session")
def jfk(jfk_path):
    return melfront.load_audio(jfk_path)


def pipelines(folder, **options):
    """A pipeline with transformers' encoder, and one with ours."""
    theirs = WhisperForConditionalGeneration.from_pretrained(folder, **options)
    for name, value in TIMESTAMPS.items():
        setattr(theirs.generation_config, name, value)
    return [
        pipeline(
            "automatic-speech-recognition",
            model=model,
            tokenizer=AutoTokenizer.from_pretrained(folder),
            feature_extractor=WhisperFeatureExtractor.from_pretrained(folder),
        )
        for model in (theirs, encoder.for_transformers(copy.deepcopy(theirs)))
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_same_text(tiny_en, jfk):
    theirs, ours = pipelines(tiny_en, dtype=torch.float32)
    options = {"generate_kwargs": {"max_new_tokens": 12}}
    text = ours(jfk.copy(), **options)["text"]
    assert "ask not what" in text
    assert text == theirs(jfk.copy(), **options)["text"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "attention"),
    [
        (torch.float32, "sdpa"),
        (torch.float32, "eager"),
        (torch.bfloat16, "eager"),
        (torch.float16, "sdpa"),
    ],
    ids=str,
)
def test_the_same_text_however_it_is_called(tiny_en, jfk, dtype, attention):
    """The two encoders run the same kernels here: in 16 bits, others would write a comma more."""
    theirs, ours = pipelines(tiny_en, dtype=dtype, attn_implementation=attention)
    for name, (clip, options) in CALLS.items():
        if clip == "44 s" and (dtype, attention) != (torch.float32, "sdpa"):
            continue  # these calls take longest
        audio = np.tile(jfk, CLIPS[clip])
        out = ours(audio.copy(), **options)
        assert QUOTE in out["text"], name
        assert out == theirs(audio.copy(), **options), name


@pytest.mark.slow
@torch.no_grad()
def test_the_same_scores(tiny_en, jfk):
    pipes = pipelines(tiny_en, dtype=torch.float32, attn_implementation="eager")
    theirs, ours = (pipe.model for pipe in pipes)
    mel = torch.from_numpy(melfront.log_mel(jfk, n_mels=80))[None]
    options = {
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_hidden_states": True,
        "output_attentions": True,
    }
    for n_beam in (1, 3):
        a, b = (
            model.generate(mel, num_beams=n_beam, max_new_tokens=20, **options)
            for model in (ours, theirs)
        )
        assert a.sequences.equal(b.sequences)
        assert len(a.encoder_attentions) == 4
        assert len(a.encoder_hidden_states) == 5
        for x, y in zip(a.scores, b.scores, strict=True):
            finite = y.isfinite()
            assert x.isfinite().equal(finite)
            # Logits of about 30, each a sum of 384 products of hidden states that differ by 1e-6.
            assert (x[finite] - y[finite]).abs().max() <= 1e-3
