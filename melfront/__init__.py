"""Whisper's front end: waveform to log-mel features.

    mel = melfront.log_mel(melfront.load_audio("sample"))   # (128, 3000) float32

`oracle` is the pipeline to read, in float64; `variants` is the same under any `Convention`, so with
what other libraries and mistakes do; `log_mel` gives the numbers fast, for NumPy and for torch.

Which computation `log_mel` takes depends on its input. Arrays and CPU tensors are computed in
float64, where numba is installed by compiled code, and are within 5e-7 of the oracle. Tensors on
another device, under a trace or that require a gradient take torch's float32 operations. Those are
transformers' to 3e-7; their FFT errs by 1e-5 on speech, by 1e-4 next to a loud tone. On a CPU
`audio.requires_grad_()` asks for them.

    SAMPLE_RATE    16,000 Hz      N_FFT        400 samples, the 25 ms of a frame
    CHUNK_LENGTH   30.0 s         HOP_LENGTH   160 samples, 10 ms from frame to frame
    N_SAMPLES      480,000, 30 s  N_FRAMES     3000, 30 s
    CONVENTIONS    name to Convention: whose features `log_mel` computes

`melfront.WhisperFeatureExtractor` is transformers' class of that name, computed by `log_mel`.
`using` puts a kernel of your own in the place of a step, or of all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from . import checkout  # noqa: F401  # first: it finds the other packages, and minds Ctrl-C
from .backends.front_end import FRONT_END, OURS, Kernels, kernels_for
from .conventions import (
    CHUNK_LENGTH,
    CONVENTIONS,
    HOP_LENGTH,
    N_FFT,
    N_FRAMES,
    N_SAMPLES,
    SAMPLE_RATE,
    Convention,
    named_convention,
)

# NumPy takes a tenth of a second, torch and transformers seconds. They wait until a name that needs
# them is used: pytest, in any project, imports this package for the plugin in `parity`.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from . import oracle, variants
    from .audio import AudioError, Clips, chunks, load_audio
    from .backends.cuda_graph import Graphed
    from .backends.torch_backend import LogMel
    from .feature_extractor import WhisperFeatureExtractor as WhisperFeatureExtractor
    from .filterbank import mel_filters

__version__ = "0.1.0"
__all__ = [
    "CHUNK_LENGTH",
    "CONVENTIONS",
    "HOP_LENGTH",
    "N_FFT",
    "N_FRAMES",
    "N_SAMPLES",
    "SAMPLE_RATE",
    "AudioError",
    "Convention",
    "Graphed",
    "LogMel",
    "Window",
    "chunks",
    "frame_mask",
    "load_audio",
    "log_mel",
    "mel_filters",
    "oracle",
    "stream",
    "using",
    "variants",
]

HOME = {
    "AudioError": "audio",
    "Graphed": "backends.cuda_graph",
    "LogMel": "backends.torch_backend",
    "chunks": "audio",
    "load_audio": "audio",
    "mel_filters": "filterbank",
    # Not in __all__: `import *` must not need transformers.
    "WhisperFeatureExtractor": "feature_extractor",
}
MODULES = ("audio", "filterbank", "oracle", "variants")


def log_mel(
    audio: Any,
    *,
    n_mels: int = 128,
    convention: str | Convention = "transformers",
    pad_to: float | None = CHUNK_LENGTH,
    truncate: bool = False,
    sampling_rate: int | None = None,
    return_mask: bool = False,
    check_range: bool = True,
    compiled: bool = True,
) -> Any:
    """Waveform to Whisper's log-mel features.

    audio: 16 kHz mono in [-1, 1]: (N,) for one clip; (B, N) or a list of (N,) for a batch; NumPy or
        torch; integer PCM; a row or column of `datasets` or pandas. See `audio.as_clips`.
    n_mels: 128 for large-v3 and turbo, 80 for every earlier size, or any other number.
    convention: whose features: a name in CONVENTIONS. `variants.log_mel` takes any Convention.
    pad_to: seconds to pad every clip to with silence, 100 frames each; None keeps the length of the
        clip, or of the batch's longest. A longer clip is an error unless truncate=True.
    sampling_rate: checked to be 16000 if given.
    return_mask: also return which frames hold audio, 1 or 0, int32.
    check_range: False accepts values beyond [-10, 10], such as audio of unit variance; otherwise
        they are taken for unscaled PCM and refused. NaN and infinity always are. Values on a GPU,
        or under a trace, are never checked: that would make the host wait for the device.
    compiled: False keeps to NumPy on a CPU: to load numba takes half a second, too long for a
        program that ends after a few clips. The command-line tools do so.

    Returns features (M, F) for one clip and (B, M, F) for a batch, F = 3000 for 30 s; with
    return_mask=True also the mask, (F,) or (B, F), which sums to ceil(N / 160). NumPy in gives
    float32 NumPy, torch in gives torch on the same device, differentiable. Raises AudioError (a
    ValueError) for audio that cannot be meant, TypeError for anything but audio, ValueError for an
    unknown convention. Reproduces transformers' WhisperFeatureExtractor.
    """
    from .audio import check_rate, fit_length, is_tensor, unchecked_clips

    convention = named_convention(convention)
    kernels = kernels_for(convention)
    if is_tensor(audio):
        from .backends.torch_backend import log_mel_of_tensor, taken_whole

        if taken_whole(audio):
            check_rate(sampling_rate)
            options = (n_mels, convention, pad_to, truncate, return_mask, kernels)
            return log_mel_of_tensor(audio, *options)
    clips = unchecked_clips(audio, sampling_rate)
    length = fit_length(clips, pad_to, truncate)
    run = backend(is_tensor(clips.arrays[0]), compiled, kernels)
    features = run(clips, length, n_mels, convention, check_range)
    return (features, mask_of(clips.cut(length), length)) if return_mask else features


def using(**kernels: Callable[..., Any] | None) -> AbstractContextManager[Kernels]:
    """Within the block, and in this thread only, `log_mel` and `LogMel` compute by these kernels.

        with melfront.using(stft=my_stft):
            mel = melfront.log_mel(audio)

    kernels: by slot, functions that take and return torch tensors. The axis B is there for a batch
        only. `melfront benchmarks kernel SLOT FILE` proves one, and passes arguments in this way.
            stft(frames, window)      (B, F, 400), (400,) -> (B, F, 201), squared magnitudes
            mel(power, filters)       (B, F, 201), (M, 201) -> (B, M, F)
            log_scale(mel)            (B, M, F) -> (B, M, F), the features
            log_mel(audio, n_mels=M)  (B, N) -> (B, M, 3000), all of it, whatever the others hold
        None is ours, whatever is in use around the block: a kernel can fall back on it.

    Whatever `log_mel` takes and returns stays as it is, for one clip, a batch, NumPy or any device.
    A kernel gets tensors of the clips' dtype; for NumPy, float32 on the CPU. For the convention
    "transformers-numpy", stft and mel get float64. Steps without a kernel are torch's operations in
    that dtype. Gradients, torch.compile, torch.export and traces work if they do for the kernel.

    In asyncio the block holds for the task that entered it and for tasks started within it. A model
    compiled by torch.compile follows, and compiles once for each set of kernels. What was exported,
    traced or captured (`Graphed`) within the block keeps the kernels for good. `stream` computes
    each window by what is in use where that window is taken, `WhisperFeatureExtractor` each call;
    one that it would leave to transformers is an error.

    Yields the table of kernels. Raises ValueError for an unknown slot and TypeError for what is no
    function. In the block, `log_mel` raises ValueError where a kernel cannot serve: log_mel and
    log_scale have no convention but "transformers", and log_mel no `pad_to` but 30.0; and for a
    result of another shape, dtype or device, or without a gradient where one is needed.
    """
    return FRONT_END.using(**kernels)


class Window(NamedTuple):
    """A window of `stream`: its samples, their features, and which of the frames hold audio."""

    audio: NDArray[np.float32]  # (N,), 16 kHz; the last window of a clip is shorter
    log_mel: NDArray[np.float32]  # (M, F)
    attention_mask: NDArray[np.int32]  # (F,)


def stream(
    file: Any,
    chunk_length: float = CHUNK_LENGTH,
    *,
    n_mels: int = 128,
    convention: str | Convention = "transformers",
    check_range: bool = True,
    compiled: bool = True,
) -> Iterator[Window]:
    """The features of a file of any length, window by window, in constant memory.

    Reads, mixes down, resamples and computes as windows are taken. They are bit for bit those of
    the whole clip: `chunks(load_audio(file), chunk_length)`, and `log_mel` of each.

        for audio, log_mel, attention_mask in melfront.stream("lecture.mp3"):
            ...

    file, check_range: as for `load_audio`; the others as for `log_mel`.
    chunk_length: seconds in a window; the last one is padded to them with silence.

    Yields Window: audio (N,) float32, N <= chunk_length * 16000; log_mel (M, F) float32 and
    attention_mask (F,) int32, F = chunk_length * 100. Raises what `load_audio` raises, after the
    windows that are complete before the fault: of a file that is cut short, all but the last.
    """
    from .audio import samples_of_chunk, windows_of

    convention = named_convention(convention)
    for audio in windows_of(file, samples_of_chunk(chunk_length), check_range):
        features = log_mel(
            audio,
            n_mels=n_mels,
            convention=convention,
            pad_to=chunk_length,
            return_mask=True,
            check_range=check_range,
            compiled=compiled,
        )
        yield Window(audio, *features)


def backend(of_tensors: bool, compiled: bool, kernels: Kernels) -> Callable[..., Any]:
    """What computes tensors or arrays, with these kernels in use."""
    if kernels is OURS:
        return (for_tensors if of_tensors else for_arrays)(compiled)
    from .backends import torch_backend

    if of_tensors:
        return partial(torch_backend.log_mel, compiled=compiled, kernels=kernels)
    return partial(torch_backend.log_mel_of_arrays, kernels=kernels)


@lru_cache
def for_tensors(compiled: bool) -> Callable[..., Any]:
    """What computes tensors."""
    from .backends import torch_backend

    return partial(torch_backend.log_mel, compiled=compiled)


@lru_cache
def for_arrays(compiled: bool) -> Callable[..., Any]:
    """What computes arrays: compiled code where numba can be imported and may compile, or NumPy."""
    if compiled and os.environ.get("NUMBA_DISABLE_JIT", "0") == "0":
        try:
            from .backends import numba_backend

            return numba_backend.log_mel
        except ImportError:  # not installed, or not for this NumPy
            pass
    from .backends import numpy_backend

    return numpy_backend.log_mel


def mask_of(clips: Clips, length: int) -> Any:
    """`frame_mask` of each clip: (F,) or (B, F), of the same kind and on the same device."""
    import numpy as np

    from .audio import is_tensor

    mask = np.stack([frame_mask(len(clip), length) for clip in clips.arrays])  # (B, F)
    mask = mask if clips.batched else mask[0]
    if not is_tensor(clips.arrays[0]):
        return mask
    import torch

    return torch.from_numpy(mask).to(clips.arrays[0].device)


def frame_mask(n_samples: int, length: int = N_SAMPLES) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Which frames of a clip of n_samples, padded to `length`, hold audio: (F,) int32, 1 or 0.

    Frame f counts if sample 160 f belongs to the clip, so ceil(n_samples / 160) do. The encoder
    ignores it. Two more frames hear the clip, because frame f reaches back to sample 160 f - 200.
    Reproduces the attention_mask of transformers' WhisperFeatureExtractor.
    """
    import numpy as np

    n_frames = length // HOP_LENGTH
    return (np.arange(n_frames) * HOP_LENGTH < n_samples).astype(np.int32)


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return import_module(f".{name}", __name__)
    if name not in HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
