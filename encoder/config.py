"""The encoder's six dimensions, read from a checkpoint's own description; the published sizes.

The names are those of openai-whisper's `ModelDimensions`; next to each is transformers' name for it
in config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EncoderConfig:
    """The dimensions of one encoder. Immutable and hashable.

    Raises ValueError for a value that is not a positive whole number below 2^31, and for a width
    that is not a multiple of the number of heads.
    """

    n_mels: int  # num_mel_bins: 128 for large-v3 and turbo, 80 for every earlier size
    n_audio_ctx: int  # max_source_positions: 1500 positions of 20 ms are 30 s
    n_audio_state: int  # d_model: width of the hidden state
    n_audio_head: int  # encoder_attention_heads
    n_audio_layer: int  # encoder_layers
    n_audio_mlp: int  # encoder_ffn_dim: inner width of the MLP, 4 * state in every published size

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) is not int or value < 1:  # type(): True is an int to isinstance
                raise ValueError(f"{name} is {value!r}, expected a positive whole number")
            if value >= 1 << 31:
                raise ValueError(f"{name} is {value.bit_length()} bits long, expected 31")
        if self.n_audio_state % self.n_audio_head:
            raise ValueError(
                f"n_audio_state {self.n_audio_state} is not a multiple of "
                f"n_audio_head {self.n_audio_head}: every head takes an equal share of the state"
            )

    @property
    def head_dim(self) -> int:
        """Width of one head: 64 in every published size."""
        return self.n_audio_state // self.n_audio_head

    @property
    def n_frames(self) -> int:
        """Mel frames of the input: two per position, because conv2 has stride 2."""
        return 2 * self.n_audio_ctx

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> EncoderConfig:
        """From a Hugging Face config.json, as a dict: Whisper's, or one with an audio_config.

        `scale_embedding` is ignored: it scales the decoder's token embeddings, and transformers
        5.23 reads it in the encoder without using it. `encoder_layerdrop` and dropout are ignored
        too, because they act in training only.

        Raises ValueError for another kind of encoder, for an activation other than the exact GELU,
        for attention within windows, and for a missing dimension.
        """
        audio = audio_part(config)
        if windows := [name for of in (config, audio) for name in WINDOWS if of.get(name)]:
            raise ValueError(
                f"{windows[0]} is set: the encoder of this {config.get('model_type')} attends "
                "within windows, and Whisper's does not"
            )
        size = str(audio.get("audio_model_id")).rpartition("/")[2].removeprefix("whisper-")
        if size in SIZES:  # Ultravox names a Whisper instead of describing it
            return SIZES[size]
        kind = audio.get("model_type")
        known = kind in ("whisper", *TOWERS) or (audio is not config and ACTIVATION in audio)
        if not known:
            raise ValueError(f"model_type is {kind!r}, expected 'whisper'")
        if audio.get(ACTIVATION, "gelu") != "gelu":
            raise ValueError(
                f"{ACTIVATION} is {audio[ACTIVATION]!r}, expected 'gelu' "
                "(the exact, erf form), which every published Whisper has"
            )
        other = {theirs: audio[name] for name, theirs in OTHER_NAMES.items() if name in audio}
        return cls(**_pick({**other, **audio}, HF_NAMES, "config.json of a Whisper model"))

    @classmethod
    def from_openai(cls, dims: Mapping[str, Any]) -> EncoderConfig:
        """From the `dims` of an openai-whisper file. It has no MLP width; that is 4 * state.

        Raises ValueError for a missing dimension, or if `dims` is not a dictionary.
        """
        if not isinstance(dims, Mapping):
            raise ValueError(f"dims is a {type(dims).__name__}, expected a dictionary")
        names = {name: name for name in HF_NAMES if name != "n_audio_mlp"}
        known = _pick(dims, names, "dims of an openai-whisper checkpoint")
        state = known["n_audio_state"]
        return cls(**known, n_audio_mlp=4 * state if isinstance(state, int) else state)

    def to_hf(self) -> dict[str, Any]:
        """The content of config.json, and the arguments of `transformers.WhisperConfig`.

        transformers cannot build an encoder without the dimensions of a decoder, and both share
        d_model. The decoder described here is the smallest that fits: one layer.
        """
        return {
            "model_type": "whisper",
            "activation_function": "gelu",
            **{theirs: getattr(self, ours) for ours, theirs in HF_NAMES.items()},
            "decoder_layers": 1,
            "decoder_attention_heads": self.n_audio_head,
            "decoder_ffn_dim": self.n_audio_mlp,
        }


HF_NAMES = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_audio_mlp": "encoder_ffn_dim",
}
# The names that Voxtral and others have in the place of Whisper's.
OTHER_NAMES = {
    "hidden_size": "d_model",
    "num_attention_heads": "encoder_attention_heads",
    "num_hidden_layers": "encoder_layers",
    "intermediate_size": "encoder_ffn_dim",
}
ACTIVATION = "activation_function"
# In Qwen-Omni, Ultravox and MiniCPM-o: positions attend to those near them, if it is not 0 or null.
WINDOWS = ("n_window", "audio_latency_block_size", "audio_chunk_length")
# The encoders of transformers 5.23 that are Whisper's under another model_type, and what they or
# their models do that Whisper does not.
TOWERS = {
    **dict.fromkeys(
        ("qwen2_audio_encoder", "audioflamingo3_encoder", "musicflamingo_encoder"),
        "the mean of every 2 positions before layer_norm, the mask of padding",
    ),
    **dict.fromkeys(
        ("voxtral_encoder", "moss_transcribe_diarize_audio"), "the stacking of 4 positions"
    ),
}
# The same of models around Whisper's own class.
AROUND = {"ultravox": "the mask of padding, the stacking of positions"}


def audio_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config.json that describes the audio encoder: all of Whisper's own."""
    while config.get("model_type") != "whisper":
        parts = (config.get(f"{name}_config") for name in ("audio", "encoder", "thinker"))
        inner = next((part for part in parts if isinstance(part, Mapping)), None)
        if inner is None:
            break
        config = inner
    return config


def _pick(source: Mapping[str, Any], names: Mapping[str, str], what: str) -> dict[str, Any]:
    missing = [theirs for theirs in names.values() if theirs not in source]
    if missing:
        raise ValueError(f"no {', '.join(missing)}: the {what} has them")
    return {ours: source[theirs] for ours, theirs in names.items()}


# The names are those of the Hugging Face Hub, where `large` is the first large model. In
# openai-whisper, `large` is always the newest one, today large-v3.
# A distilled model has fewer decoder layers; its encoder is a frozen copy of its teacher's.
_PUBLISHED = (  # layers, width, heads, mel bins
    ("tiny tiny.en", 4, 384, 6, 80),
    ("base base.en", 6, 512, 8, 80),
    ("small small.en distil-small.en", 12, 768, 12, 80),
    ("medium medium.en distil-medium.en", 24, 1024, 16, 80),
    ("large large-v1 large-v2 distil-large-v2", 32, 1280, 20, 80),
    ("large-v3 large-v3-turbo turbo distil-large-v3", 32, 1280, 20, 128),
)

SIZES = {
    name: EncoderConfig(mels, 1500, width, heads, layers, 4 * width)
    for names, layers, width, heads, mels in _PUBLISHED
    for name in names.split()
}
