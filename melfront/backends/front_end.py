"""The front end's slots: which steps a kernel computes in the place of ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..conventions import CHUNK_LENGTH, N_SAMPLES, TRANSFORMERS, Convention
from .slots import Slots

Kernel = Callable[..., Any]


@dataclass(frozen=True)
class Kernels:
    """The table: which kernel is in which slot. None is ours. `using` has the shapes."""

    stft: Kernel | None = None
    mel: Kernel | None = None
    log_scale: Kernel | None = None
    log_mel: Kernel | None = None


FRONT_END = Slots(Kernels())
OURS = FRONT_END.ours


def kernels_for(convention: Convention) -> Kernels:
    """The kernels in use. Raises ValueError if one of them cannot serve this convention.

    log_mel and log_scale compute transformers' features. What comes before the logarithm is the
    same in all named conventions, apart from how precise it is.
    """
    kernels = FRONT_END.current()
    slot = "log_mel" if kernels.log_mel is not None else "log_scale"
    if getattr(kernels, slot) is not None and convention.name != TRANSFORMERS.name:
        raise ValueError(
            f"convention {convention.name!r}: the kernel in the slot {slot} computes the features "
            f"of {TRANSFORMERS.name!r}; ask for those, or put kernels in stft and mel only"
        )
    return kernels


def check_length(length: Any) -> None:
    """Raise ValueError for clips that are not padded to 30 s, as the slot log_mel does."""
    # Under torch.export the length of a clip is a symbol, not 30 s.
    if not isinstance(length, int) or length != N_SAMPLES:
        raise ValueError(
            f"the kernel in the slot log_mel pads clips to {CHUNK_LENGTH:g} s and no other length; "
            f"leave pad_to={CHUNK_LENGTH}, or put kernels in stft, mel and log_scale"
        )
