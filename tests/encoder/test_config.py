"""Dimensions: the published sizes, and conversion from and to transformers and openai-whisper."""

import dataclasses
import json

import pytest
import torch

from melfront.encoder.checkpoint import hf_name, shapes
from melfront.encoder.config import SIZES, EncoderConfig

SMALL = EncoderConfig(
    n_mels=7, n_audio_ctx=11, n_audio_state=26, n_audio_head=2, n_audio_layer=3, n_audio_mlp=17
)


def test_published_sizes():
    for name, size in SIZES.items():
        assert (size.n_audio_ctx, size.n_frames, size.head_dim) == (1500, 3000, 64), name
        assert size.n_audio_mlp == 4 * size.n_audio_state, name
        assert size.n_mels == (128 if "v3" in name or name == "turbo" else 80), name
    # Layers, widths and heads from the Whisper paper (arXiv 2212.04356, table 1).
    paper = {"tiny": (4, 384, 6), "base": (6, 512, 8), "small": (12, 768, 12)}
    paper |= {"medium": (24, 1024, 16), "large": (32, 1280, 20)}
    for name, (layers, width, heads) in paper.items():
        for variant in {name, f"{name}.en", f"{name}-v2", f"distil-{name}.en"} & set(SIZES):
            size = SIZES[variant]
            assert (size.n_audio_layer, size.n_audio_state, size.n_audio_head) == (
                layers, width, heads,
            )  # fmt: skip
    assert dataclasses.replace(SIZES["large-v2"], n_mels=128) == SIZES["large-v3"]
    assert SIZES["turbo"] == SIZES["large-v3-turbo"] == SIZES["distil-large-v3"]
    assert SIZES["large"] == SIZES["large-v1"] == SIZES["distil-large-v2"] == SIZES["large-v2"]


def test_sizes_include_every_model_of_openai_whisper():
    whisper = pytest.importorskip("whisper")
    assert set(whisper.available_models()) <= set(SIZES)


def test_published_config_json(tiny_en):
    config = json.loads((tiny_en / "config.json").read_text())
    assert EncoderConfig.from_hf(config) == SIZES["tiny.en"]


def test_properties():
    assert (SMALL.head_dim, SMALL.n_frames) == (13, 22)
    assert hash(SMALL) == hash(dataclasses.replace(SMALL))
    with pytest.raises(dataclasses.FrozenInstanceError):
        SMALL.n_mels = 80


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(EncoderConfig)])
@pytest.mark.parametrize("value", [0, -26, 26.0, "26", True, None])
def test_dimensions_are_positive_integers(field, value):
    with pytest.raises(ValueError, match=rf"^{field} is {value!r}, expected a positive whole"):
        dataclasses.replace(SMALL, **{field: value})


def test_state_is_a_multiple_of_heads():
    with pytest.raises(ValueError, match="n_audio_state 26 is not a multiple of n_audio_head 3"):
        dataclasses.replace(SMALL, n_audio_head=3)


@pytest.mark.parametrize("config", [SMALL, SIZES["large-v3"]], ids=["small", "large-v3"])
def test_transformers_builds_the_matching_encoder(config):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.WhisperConfig(**config.to_hf())
    assert EncoderConfig.from_hf(theirs.to_dict()) == config
    with torch.device("meta"):
        model = transformers.WhisperModel(theirs)
    built = {name: tuple(t.shape) for name, t in model.encoder.state_dict().items()}
    assert built == {hf_name(name): shape for name, shape in shapes(config).items()}


def test_from_hf_refuses_unsupported_encoders():
    config = SMALL.to_hf()
    assert EncoderConfig.from_hf(config | {"scale_embedding": True}) == SMALL
    with pytest.raises(ValueError, match="model_type is 'bert', expected 'whisper'"):
        EncoderConfig.from_hf(config | {"model_type": "bert"})
    with pytest.raises(ValueError, match="model_type is None"):
        EncoderConfig.from_hf({})
    with pytest.raises(ValueError, match="activation_function is 'gelu_new', expected 'gelu'"):
        EncoderConfig.from_hf(config | {"activation_function": "gelu_new"})
    del config["d_model"], config["encoder_ffn_dim"]
    with pytest.raises(ValueError, match=r"^no d_model, encoder_ffn_dim: "):
        EncoderConfig.from_hf(config)


def test_from_openai():
    whisper_model = pytest.importorskip("whisper.model")
    dims = whisper_model.ModelDimensions(7, 11, 26, 2, 3, 101, 19, 34, 17, 5)
    expected = dataclasses.replace(SMALL, n_audio_mlp=104)
    assert EncoderConfig.from_openai(dataclasses.asdict(dims)) == expected
    with pytest.raises(ValueError, match=r"^no n_audio_head: "):
        EncoderConfig.from_openai(
            {k: v for k, v in dataclasses.asdict(dims).items() if k != "n_audio_head"}
        )
