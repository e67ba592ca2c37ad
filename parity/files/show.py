"""Print the truth of stages as people's printf does, in a form that `compare` reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..noise import Array, rms
from ..pipeline import needs_encoder
from ..resolve import DEFAULT, NO_DUMP, is_built_in, resolve
from ..stages import ParityError
from .dump import chosen
from .sampling import as_real
from .shapes import stage_shapes

SHOWN = 10  # values at each end


def show(
    words: Iterable[str] = (),
    model: Any = None,
    *,
    wanted: Iterable[str] | None = None,
    n_mels: int | None = None,
    convention: Any = None,
    pad_to: Any = DEFAULT,
    check_range: bool = True,
    tell: Callable[[str], object] = print,
) -> None:
    """Tell, stage by stage, the shape, the first and last ten values, and what they add up to.

    words: stages, as of `dump`'s wanted, and at most one clip: a file, or a name such as `sample`.
    model, wanted, n_mels, convention, pad_to, check_range: as of `parity.dump`. The spectrum is
    shown as (F, K, 2). Raises ParityError.
    """
    clips = [word for word in words if is_built_in(word) or Path(word).is_file()]
    if len(clips) > 1:
        raise ParityError(f"one clip at a time; given {', '.join(clips)}")
    names = [word for word in words if word not in clips] + list(wanted or ())
    options = (clips[0] if clips else None, model, n_mels, convention, pad_to, check_range)
    pipeline = resolve(NO_DUMP, None, *options)[0]
    shapes = chosen(stage_shapes(pipeline), names or None)
    tell(f"# {pipeline.describe()}")

    def look(stage: str, tensor: Array) -> Array:
        if stage in shapes:
            tell("\n".join(lines(stage, as_real(tensor))))
        return tensor

    pipeline.run(look, needs_encoder(shapes))


def lines(stage: str, values: Array) -> list[str]:
    """A stage's lines: its name and shape, and its facts to six digits."""
    flat = np.ascontiguousarray(values).reshape(-1)
    facts = {
        "first": flat[:SHOWN],
        "last": flat[-SHOWN:],
        "sum": flat.sum(),
        "mean": flat.mean(),
        "min": flat.min(),
        "max": flat.max(),
        "rms": rms(flat),
    }
    shape = ", ".join(map(str, values.shape)) + "," * (values.ndim == 1)
    shown = {fact: " ".join(f"{x:.6g}" for x in np.atleast_1d(n)) for fact, n in facts.items()}
    return [f"{stage} ({shape})", *(f"  {fact:5}  {text}" for fact, text in shown.items())]
