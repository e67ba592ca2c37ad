"""The page's recipes for faster-whisper and transformers: the same features and text as theirs.

Frames and dtype must be theirs, values within their own error from float64.
"""

import logging
from functools import partial

import numpy as np
import pytest

import melfront
from tests.project.test_readme import assert_prints, blocks
from tests.signals import Signal

# Our kernel's largest error, as in tests/melfront/test_libraries.py: our features may differ from
# theirs by as much as theirs differ from float64, and this.
OURS = 5e-7
QUOTE = "ask not what your country can do for you"


def block_about(words):
    (found,) = [b for b in blocks("docs/libraries.md") if b.language == "py" and words in b.text]
    return found


def assert_same(mine, theirs, truth):
    assert mine.shape == theirs.shape
    assert mine.dtype == theirs.dtype == np.float32
    error = np.abs(theirs - truth).max()
    assert error <= 1e-3  # it computes the same thing
    assert np.abs(mine - theirs).max() <= error + OURS


# faster-whisper


@pytest.fixture(scope="module")
def converted(tiny_en, tmp_path_factory):
    """whisper-tiny.en in ctranslate2's format, which a reader would download."""
    converters = pytest.importorskip("ctranslate2.converters")
    pytest.importorskip("faster_whisper")
    folder = tmp_path_factory.mktemp("ctranslate2") / "tiny.en"
    files = ["tokenizer.json", "preprocessor_config.json"]
    converters.TransformersConverter(str(tiny_en), copy_files=files).convert(str(folder))
    return folder


@pytest.fixture
def recipe(converted, jfk_path, tmp_path, monkeypatch, capsys):
    """What the page's block defines, after it has printed what the page shows."""
    import faster_whisper

    monkeypatch.chdir(tmp_path)
    (tmp_path / "speech.flac").symlink_to(jfk_path)
    model = partial(faster_whisper.WhisperModel, str(converted))
    monkeypatch.setattr(faster_whisper, "WhisperModel", lambda _name, **kw: model(**kw))
    block, space = block_about("faster_whisper"), {}
    exec(compile(block.text, block.title, "exec"), space)
    assert_prints(block.shown, capsys.readouterr().out)
    return space


def test_faster_whisper(recipe):
    from faster_whisper.feature_extractor import FeatureExtractor

    mine = recipe["model"].feature_extractor
    theirs = FeatureExtractor(**recipe["model"].feat_kwargs)
    for n in (41, 160, 9_001, 176_000):
        audio = Signal("speech", n, seed=n).array()
        for padding, chunk_length in ((160, None), (160, 7), (480, None)):
            a, b = (f(audio, padding, chunk_length) for f in (mine, theirs))
            padded = np.pad(audio, (0, padding))
            assert_same(a, b, melfront.oracle.log_mel(padded, n_mels=80, pad_to=None))
            assert mine.nb_max_frames == theirs.nb_max_frames
    assert vars(mine).keys() == vars(theirs).keys()


@pytest.mark.slow
def test_faster_whisper_transcribes(recipe):
    from faster_whisper.feature_extractor import FeatureExtractor

    model, results = recipe["model"], []
    for extractor in (model.feature_extractor, FeatureExtractor(**model.feat_kwargs)):
        model.feature_extractor = extractor
        segments, _ = model.transcribe(
            np.tile(recipe["audio"], 4), word_timestamps=True, vad_filter=True
        )
        results.append([(s.text, s.tokens, s.start, s.end) for s in segments])
    assert results[0] == results[1]
    assert len(results[0]) >= 4


# transformers: what insanely-fast-whisper, vLLM and sglang call


@pytest.fixture
def features():
    """Replaces transformers' method, until the end of the test, and counts its calls."""
    from transformers import WhisperFeatureExtractor

    block, calls = block_about("_torch_extract_fbank_features"), []
    theirs = WhisperFeatureExtractor._torch_extract_fbank_features
    try:
        exec(compile(block.text, block.title, "exec"), {})
        mine = WhisperFeatureExtractor._torch_extract_fbank_features
        assert mine is not theirs

        def counted(self, *args):
            exact = np.float64(self._np_extract_fbank_features(args[0], "cpu"))
            calls.append((theirs(self, *args), exact))
            return mine(self, *args)

        WhisperFeatureExtractor._torch_extract_fbank_features = counted
        yield calls
    finally:
        WhisperFeatureExtractor._torch_extract_fbank_features = theirs


def test_extractor_of_transformers(features):
    """The arguments that sglang gives, and those of batches and unit variance."""
    from transformers import WhisperFeatureExtractor

    logging.getLogger("transformers").setLevel(logging.ERROR)
    extractor = WhisperFeatureExtractor(feature_size=80)
    clips = [Signal("speech", n, seed=n).array() for n in (9_001, 500_009)]
    for audio, options in (
        (clips[0], {"sampling_rate": 16_000, "padding": "max_length", "return_tensors": "pt"}),
        (clips, {"sampling_rate": 16_000, "return_attention_mask": True, "return_tensors": "np"}),
        (clips, {"do_normalize": True, "padding": "longest", "truncation": False}),
    ):
        mine = np.asarray(extractor(audio, **options)["input_features"])
        assert_same(mine, *features.pop())


@pytest.mark.slow
def test_pipeline_of_transformers(features, tiny_en, jfk_path):
    """As insanely-fast-whisper calls it, but for the device; the processor as vLLM does."""
    from transformers import (
        WhisperFeatureExtractor,
        WhisperProcessor,
        WhisperTokenizerFast,
        pipeline,
    )

    extractor = WhisperFeatureExtractor.from_pretrained(tiny_en)
    tokenizer = WhisperTokenizerFast(tokenizer_file=str(tiny_en / "tokenizer.json"))
    tokenizer.pad_token = "<|endoftext|>"
    pipe = pipeline(
        "automatic-speech-recognition",
        model=str(tiny_en),
        feature_extractor=extractor,
        tokenizer=tokenizer,
    )
    audio = melfront.load_audio(jfk_path)
    result = pipe(audio, chunk_length_s=30, batch_size=2)
    assert QUOTE in result["text"]
    assert len(features) == 1
    processor = WhisperProcessor(extractor, tokenizer)
    out = processor(text="<|startoftranscript|>", audio=audio[:9_001], sampling_rate=16_000)
    assert_same(np.asarray(out["input_features"]), *features.pop())
