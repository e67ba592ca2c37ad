"""Every decision of the front end as a field of a dataclass, and libraries as its values.

Another library, or a bug, is the default with a field changed, such as
`replace(TRANSFORMERS, periodic=False)`. `variants.py` computes any of them, the fast backends the
named conventions at the end of this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal, get_args, get_origin, get_type_hints


def exact_div(a: int, b: int) -> int:
    """a // b; ValueError if that leaves a remainder."""
    if a % b:
        raise ValueError(f"{a} is not a multiple of {b}")
    return a // b


SAMPLE_RATE = 16_000  # Hz: keeps frequencies up to 8 kHz, nearly all of speech
N_FFT = exact_div(SAMPLE_RATE * 25, 1000)  # 400 samples = 25 ms: a few pitch periods of one sound
HOP_LENGTH = exact_div(SAMPLE_RATE * 10, 1000)  # 160 samples = 10 ms: as fast as sounds change
FRAMES_PER_SECOND = exact_div(SAMPLE_RATE, HOP_LENGTH)  # 100
CHUNK_LENGTH = 30.0  # seconds: Whisper was trained on windows of this length only
N_SAMPLES = exact_div(SAMPLE_RATE * 30, 1)  # 480,000
N_FRAMES = exact_div(N_SAMPLES, HOP_LENGTH)  # 3000
LOG_FLOOR = 1e-10  # the least mel power: the log10 of silence is -10, not -inf
DYNAMIC_RANGE = 8.0  # how far below the loudest value the log10 may go: 80 dB

# The stages of `oracle.trace`, in order.
STAGES = ("padded", "frames", "windowed", "spectrum", "power", "mel", "log", "clamped", "features")


def at(stage: str | None, default: Any) -> Any:
    """A field of `Convention`: Whisper's choice, and the first stage that another choice changes.

    The stage is None if no choice changes a value in float64.
    """
    return field(default=default, metadata={"stage": stage})


@dataclass(frozen=True)
class Convention:
    """One front end, decision by decision, in the order in which the signal meets them.

    The default of each field is transformers' choice. Lengths are in samples, frequencies in Hz,
    logarithms to base 10. Immutable and hashable; change it with `dataclasses.replace`. Raises
    ValueError for a word that a field does not know.
    """

    name: str = at(None, "transformers")
    precision: Literal["float32", "float64"] = at(None, "float32")  # arithmetic of the backends

    # the bytes of a 16-bit WAV file taken wrongly: "header" as samples, see `other_steps`
    read: Literal[None, "header", "big-endian", "unsigned", "8-bit"] = at("padded", None)
    skip: int = at("padded", 0)  # samples lost at the beginning
    gain: float = at("padded", 1.0)  # the waveform is multiplied by it: 32768 for unscaled int16
    preemphasis: float = at("padded", 0.0)  # x[n] - preemphasis * x[n - 1]; NeMo's is 0.97
    padded_preemphasis: float = at("padded", 0.0)  # which goes on into the zeros after the clip
    # before padding
    normalize: Literal[None, "mean", "variance", "peak", "rms"] = at("padded", None)
    pad_side: Literal["right", "left"] = at("padded", "right")  # where the zeros up to 30 s go
    extra_padding: int = at("padded", 0)  # zeros beyond 30 s; openai-whisper's transcribe adds 30 s
    # padded only to the longest clip of the batch: the *features* are filled up to 30 s, by `fill`
    own_length: bool = at("padded", False)
    n_fft: int = at("padded", N_FFT)
    frame_start: int | None = at("padded", None)  # first sample of frame 0; None: -(n_fft // 2)
    # beyond the edges
    pad_mode: Literal["reflect", "constant", "edge", "symmetric"] = at("padded", "reflect")
    edges_first: bool = at("padded", False)  # reflect the clip's own ends, only then pad to 30 s
    pad_twice: bool = at("padded", False)  # half a window more at each edge: everything is late

    hop_length: int = at("frames", HOP_LENGTH)
    # of the L // 160 + 1 frames
    drop: Literal["last", "first", "last_after_max", None] = at("frames", "last")

    chunk: int | None = at("frames", None)  # frames; each chunk is padded at its own ends

    frame_mean: bool = at("windowed", False)  # each frame's mean is taken off
    frame_preemphasis: float = at("windowed", 0.0)  # within each frame; Kaldi's is 0.97
    win_length: int = at("windowed", N_FFT)  # a window shorter than n_fft is centred in it
    window: Literal[
        "hann", "hamming", "blackman", "povey", "sqrt_hann", "squared_hann", "triangle", None
    ] = at("windowed", "hann")
    periodic: bool = at("windowed", True)  # a period of win_length; False: of win_length - 1

    spectrum_scale: float = at("spectrum", 1.0)  # X times this; 1/20 is stft(normalized=True)
    # of a transform written out: rounded to float32, or computed in it
    angles: Literal["exact", "rounded", "float32"] = at("spectrum", "exact")

    # one part only
    spectrum_part: Literal["complex", "real", "imaginary"] = at("power", "complex")
    folded: bool = at("power", False)  # negative frequencies added: doubles bins 1 .. n_fft/2 - 1
    power: float = at("power", 2.0)  # |X| ** power

    f_min: float = at("mel", 0.0)
    f_max: float = at("mel", 8_000.0)
    filter_rate: float = at("mel", SAMPLE_RATE)  # the sampling rate that the filters are made for
    mel_scale: Literal["slaney", "htk"] = at("mel", "slaney")
    mel_norm: Literal["slaney", "sum", "peak", None] = at("mel", "slaney")  # "sum": of each, 1
    # of the triangles, on whole bins: floor((n_fft + 1) f / rate), floor or round(n_fft f / rate)
    corners: Literal[None, "floor", "floor_n_fft", "round"] = at("mel", None)
    straight_in_mels: bool = at("mel", False)  # the triangles' sides: Kaldi's, not straight in Hz
    bin_shift: int = at("mel", 0)  # filters are applied this many frequency bins too high
    flip_mels: bool = at("mel", False)  # highest bin first
    mel_mantissa: int | None = at("mel", None)  # bits kept of each factor: 10 is TF32, 7 bfloat16

    logarithm: bool = at("log", True)  # False: left out
    log_base: float = at("log", 10.0)
    log_factor: float = at("log", 1.0)  # 10 gives decibels
    log_floor: float = at("log", LOG_FLOOR)
    floor_added: bool = at("log", False)  # log(x + floor) instead of log(max(x, floor))

    # None: nothing is clamped
    max_scope: Literal["item", "batch", "frame", "bin", None] = at("clamped", "item")
    # "clip": only the frames that the clip has with extra_padding alone, not up to 30 s
    max_frames: Literal["all", "clip"] = at("clamped", "all")
    fixed_max: float | None = at("clamped", None)  # a constant in place of the maximum
    max_chunk: int | None = at("clamped", None)  # frames that have a maximum of their own
    max_running: bool = at("clamped", False)  # the maximum of all frames, or chunks, so far
    dynamic_range: float = at("clamped", DYNAMIC_RANGE)
    max_subtracted: bool = at("clamped", False)  # afterwards the loudest value is 0

    offset: float = at("features", 4.0)  # (x + offset) / divisor
    divisor: float = at("features", 4.0)
    # subtract the mean and divide by the standard deviation, of each bin or frame or of the whole
    # item; "bin_mean": subtract only; "range": least 0, largest 1
    output_mean: Literal[None, "bin", "bin_unbiased", "bin_mean", "frame", "item", "range"] = at(
        "features", None
    )
    fill: float | None = at("features", None)  # of the frames after the clip; None: as silence
    unwritten: int = at("features", 0)  # last frames that are 0

    def __post_init__(self) -> None:
        for name, words in choices().items():
            if (word := getattr(self, name)) not in words:
                expected = ", ".join(map(repr, words))
                raise ValueError(f"{name}={word!r}; expected one of {expected}")

    def changes(self) -> dict[str, object]:
        """The fields that differ from transformers' choice, apart from the name."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name != "name" and getattr(self, f.name) != f.default
        }

    def upto(self, stage: str) -> tuple[Any, ...]:
        """Every choice made up to this stage: equal choices give equal tensors there."""
        kind: Any = type(self)
        chosen: tuple[Any, ...] = choices_upto(kind, stage)(self)
        return chosen

    @property
    def start(self) -> int:
        """The first sample of frame 0, counted from the clip's first; by default -200."""
        # torch.stft(center=True) and librosa put sample 160 f in the *middle* of frame f.
        return -(self.n_fft // 2) if self.frame_start is None else self.frame_start


@lru_cache(maxsize=1)
def choices() -> dict[str, tuple[Any, ...]]:
    """The words allowed in each field that takes words."""
    hints = get_type_hints(Convention)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


@lru_cache(maxsize=32)
def choices_upto(kind: Any, stage: str) -> attrgetter[Any]:
    """What reads the fields of these stages and of those before."""
    early = STAGES[: STAGES.index(stage) + 1]
    return attrgetter(*(f.name for f in fields(kind) if f.metadata["stage"] in early))


def check_stages(convention: Convention) -> None:
    """Raise TypeError if a field names no stage: `upto` would mistake two front ends for one."""
    for f in fields(convention):
        if f.metadata.get("stage", "") not in (*STAGES, None):
            raise TypeError(
                f"Convention.{f.name} names no stage; write {f.name}: TYPE = at(STAGE, DEFAULT), "
                f"where STAGE is None or one of {', '.join(STAGES)}"
            )


TRANSFORMERS = Convention()
check_stages(TRANSFORMERS)
NAMED = (
    TRANSFORMERS,
    # WhisperFeatureExtractor without torch installed: NumPy, float64 inside.
    replace(TRANSFORMERS, name="transformers-numpy", precision="float64"),
    # whisper.log_mel_spectrogram(pad_or_trim(audio)): one maximum for the whole batch.
    replace(TRANSFORMERS, name="openai", max_scope="batch"),
    # whisper.transcribe: adds 30 s of zeros to the clip, cuts the mel to the clip's own frames and
    # fills it up to 30 s with 0.0, not with the value of silence.
    replace(TRANSFORMERS, name="openai-transcribe", extra_padding=N_SAMPLES, fill=0.0),
    # faster_whisper: FeatureExtractor adds one hop of zeros, so one frame, and pads no further;
    # transcribe drops that frame again and fills the mel up to 30 s with 0.0.
    replace(
        TRANSFORMERS, name="faster-whisper", extra_padding=HOP_LENGTH, max_frames="clip", fill=0.0
    ),
)
CONVENTIONS = {convention.name: convention for convention in NAMED}


def get_convention(convention: str | Convention) -> Convention:
    """A convention by name, or the one given. Raises ValueError for an unknown name."""
    if isinstance(convention, Convention):
        return convention
    if convention not in CONVENTIONS:
        raise ValueError(
            f"unknown convention {convention!r}; expected one of {', '.join(CONVENTIONS)}"
        )
    return CONVENTIONS[convention]


def named_convention(convention: str | Convention) -> Convention:
    """`get_convention` for the fast backends, which raises ValueError for an unnamed one."""
    convention = get_convention(convention)
    known = CONVENTIONS.get(convention.name)
    if convention is not known and convention != known:
        raise ValueError(
            f"convention {convention.name!r} with {convention.changes()} is not one of "
            f"{', '.join(CONVENTIONS)}; only melfront.variants.log_mel computes any convention"
        )
    return convention
