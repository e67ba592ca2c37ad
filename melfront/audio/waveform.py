"""What a waveform must be: its dtype, its sampling rate, its values. Arrays and tensors alike."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..conventions import SAMPLE_RATE

# Float audio is in [-1, 1]. Loud masters overshoot a little; int16 that was cast to float but not
# divided by 32768 overshoots by thousands. Ten (20 dB too loud) tells the two apart.
MAX_AMPLITUDE = 10.0
FULL_SCALE = {"int8": 2.0**7, "uint8": 2.0**7, "int16": 2.0**15, "int32": 2.0**31}


FAR_OUTSIDE = (
    "far outside [-1, 1]; this looks like integer PCM that was cast to float. Divide by its full "
    "scale (32768 for int16), or leave it in integers, which are scaled by their type; "
    "check_range=False takes audio of unit variance as it is"
)


NAMELESS = "the data given"  # what an error calls a clip that has no file


class AudioError(ValueError):
    """The audio cannot be what the caller means; the message says what to do about it."""


def printable(text: str, most: int = 400) -> str:
    """A name, or what another library says, for an error: short, and without control characters."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: 4 * most])
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def is_tensor(x: object) -> bool:
    """Is x a torch tensor? Does not import torch: whoever passes a tensor has imported it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_traced(tensor: Any) -> bool:
    """Is a tool recording what is done to the tensor, so that its values must not be read?

    torch.compile, torch.export, torch.jit.trace, vmap and torch.func pass a stand-in without
    values, or replay for every later clip what was done to this one.
    """
    import torch

    # mypy: is_tracing is public, but not in torch.jit's __all__
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]  # see above
        return True
    try:
        tensor.data_ptr()
    except RuntimeError:  # a stand-in has no storage
        return True
    return False


def to_float(audio: Any, name: str) -> Any:
    """Integer PCM to [-1, 1) by the range of its type; floats as they are, float16 as float32."""
    if audio.dtype in (np.float32, np.float64):  # before the name, which takes NumPy 3 us
        return audio
    # NumPy's name is the same for either byte order.
    dtype = str(audio.dtype).removeprefix("torch.") if is_tensor(audio) else audio.dtype.name
    if dtype in ("float32", "float64"):
        return audio
    if dtype not in ("float16", "bfloat16", *FULL_SCALE):
        raise AudioError(
            f"{name}: dtype {dtype} is neither floating point nor 8, 16 or 32-bit PCM; convert it "
            "to float32 in [-1, 1]"
        )
    # Exact up to 24 bits; the rest of 32 bits is 140 dB down.
    audio = audio.float() if is_tensor(audio) else audio.astype(np.float32)
    if dtype not in FULL_SCALE:
        return audio
    return (audio - 128 if dtype == "uint8" else audio) / FULL_SCALE[dtype]


def check_rate(sampling_rate: int | None) -> None:
    """Raise AudioError for any sampling rate but 16 kHz; None is not checked."""
    if sampling_rate is not None and sampling_rate != SAMPLE_RATE:
        raise AudioError(
            f"sampling rate {sampling_rate} Hz; Whisper expects {SAMPLE_RATE}. Resample first: "
            "melfront.load_audio does, given a file or a row of datasets, and so does "
            f"cast_column('audio', Audio(sampling_rate={SAMPLE_RATE}))"
        )


def check_samples(clip: Any, name: str, check_range: bool = True) -> None:
    """Raise AudioError for an empty clip, one with NaN or infinity, or one far outside [-1, 1].

    check_range=False skips the range. A tensor on a GPU, or under a trace, is only checked for
    being empty: reading its values would make the host wait for the device, and break the trace.
    """
    if len(clip) == 0:
        raise AudioError(f"{name}: no samples")
    if is_tensor(clip):
        if clip.device.type != "cpu" or is_traced(clip) or not clip.dtype.is_floating_point:
            return
        least, most = (float(value) for value in clip.detach().aminmax())
    else:
        if clip.dtype.kind != "f":  # integers are scaled by their type
            return
        least, most = clip.min(), clip.max()
    peak = max(most, -least)  # NaN and infinity both come through max and min
    if peak <= MAX_AMPLITUDE if check_range else math.isfinite(peak):
        return
    finite = np.isfinite(clip.detach().double().numpy() if is_tensor(clip) else clip)
    if n_bad := len(clip) - np.count_nonzero(finite):
        first = int(np.argmin(finite))
        of_all = f"{n_bad} of {len(clip)} are not finite"
        raise AudioError(f"{name}: sample {first} is {float(clip[first])} ({of_all})")
    raise AudioError(f"{name}: values up to {peak:.6g}, {FAR_OUTSIDE}")


def mixed(samples: NDArray[Any]) -> NDArray[np.float32]:
    """The mean of the channels: (n, channels) -> (n,) float32. NaN and infinity are seen later."""
    with np.errstate(all="ignore"):
        mono: NDArray[np.float32] = samples.astype(np.float32, copy=False).mean(axis=1)
    return mono


def first_bad(block: NDArray[np.float32], check_range: bool) -> int:
    """The first sample of a block (n,) that is not finite or, if checked, far outside [-1, 1]; n
    if there is none."""
    bound = MAX_AMPLITUDE if check_range else np.finfo(np.float32).max
    if max(block.max(), -block.min()) <= bound:
        return len(block)
    return int(np.argmin(np.abs(block) <= bound))


def bad_sample(value: np.float32, where: str) -> AudioError:
    """The error for a sample that `first_bad` found."""
    return AudioError(
        f"{where} is {value:.6g}" + (f", {FAR_OUTSIDE}" if np.isfinite(value) else "")
    )
