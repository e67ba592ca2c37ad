"""Our WhisperFeatureExtractor in transformers' processor and pipeline, with trained weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import melfront

transformers = pytest.importorskip("transformers")
Theirs, Ours = transformers.WhisperFeatureExtractor, melfront.WhisperFeatureExtractor


def test_processor(tiny_en, tmp_path, sample):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_en)
    processor = transformers.WhisperProcessor(Ours(), tokenizer)
    features = processor(sample, sampling_rate=16_000, return_tensors="pt").input_features
    expected = Ours()(sample, True, 160, "pt", sampling_rate=16_000)  # by position, as theirs
    assert torch.equal(features, expected.input_features)
    processor.save_pretrained(tmp_path)
    loaded = transformers.WhisperProcessor.from_pretrained(tmp_path)
    assert loaded.feature_extractor.to_dict() == Theirs().to_dict()
    assert Ours.from_pretrained(tmp_path).to_dict() == Ours().to_dict()


@pytest.mark.slow
@pytest.mark.parametrize(("repeats", "chunk_length_s"), [(1, 0), (4, 30)])
def test_pipeline_gives_the_same_text(tiny_en, jfk_path, repeats, chunk_length_s):
    """11 s, and 44 s in windows of 30 s that overlap."""
    audio = np.tile(melfront.load_audio(jfk_path), repeats)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(tiny_en)
    model.generation_config.no_timestamps_token_id = 50_362  # missing in these files
    results = []
    for kind in (Theirs, Ours):
        pipe = transformers.pipeline(
            "automatic-speech-recognition",
            model=model,
            tokenizer=transformers.AutoTokenizer.from_pretrained(tiny_en),
            feature_extractor=kind.from_pretrained(tiny_en),
            chunk_length_s=chunk_length_s,
        )
        assert type(pipe.feature_extractor) is kind
        results.append(pipe(audio.copy(), return_timestamps=True))
    theirs, ours = results
    assert "ask what you can do for your country" in ours["text"]
    assert ours == theirs
