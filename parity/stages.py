"""Every stage from the waveform to the last hidden state: name, order, axes, what it is.

Files, taps and command lines call a stage by its name. `Stage(name)` and `files.names` are the
doors where a name is looked up; behind them every stage knows its part, block, axes and place.

# B clips  L samples  N n_fft  F frames  K frequencies  M mel bins
# T positions  S state  H heads  A mlp width
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any, TypeVar

from melfront.command import one_line, shorten

MOST = 900  # characters of an error, so that a line with the command's name has 1000 at most


class ParityError(ValueError):
    """What was given cannot be compared; the message says what to do. One line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, MOST))


MAX_LAYERS = 1000  # the largest Whisper has 32
Row = tuple[str, str, str]  # name, axes, meaning

PARTS: dict[str, tuple[Row, ...]] = {
    "front end": (
        ("padded", "L+N", "the waveform, zeros up to 30 s, 200 samples mirrored at each edge"),
        ("frames", "F N", "pieces of 400 samples, one every 160"),
        ("windowed", "F N", "each piece times the periodic Hann window"),
        ("spectrum", "F K", "its Fourier transform, complex"),
        ("power", "F K", "the squared size of each frequency"),
        ("mel", "M F", "weighted sums of neighbouring frequencies"),
        ("log", "M F", "log10 of at least 1e-10"),
        ("clamped", "M F", "at least the clip's maximum less 8"),
        ("features", "M F", "(x + 4) / 4: what the encoder is given"),
    ),
    "stem": (
        ("conv1", "S F", "first convolution, stride 1"),
        ("gelu1", "S F", "its GELU"),
        ("conv2", "S T", "second convolution, stride 2: 20 ms a step from here"),
        ("gelu2", "S T", "its GELU"),
        ("positions", "T S", "time first, the positions added: the first block's input"),
    ),
    "block": (
        ("attn_ln", "T S", "layer norm before attention"),
        ("attn.q", "T S", "queries, heads side by side, not yet scaled"),
        ("attn.k", "T S", "keys, which have no bias"),
        ("attn.v", "T S", "values"),
        ("attn.scores", "H T T", "q k^T / sqrt(head_dim): query down, key across"),
        ("attn.weights", "H T T", "softmax of the scores, along the keys"),
        ("attn.context", "T S", "weights v, heads side by side again"),
        ("attn.out", "T S", "its projection"),
        ("attn_residual", "T S", "added to the block's input"),
        ("mlp_ln", "T S", "layer norm before the MLP"),
        ("mlp.fc1", "T A", "first linear map, four times as wide"),
        ("mlp.gelu", "T A", "its GELU"),
        ("mlp.fc2", "T S", "second linear map"),
        ("mlp_residual", "T S", "added to what was there: the block's output"),
    ),
    "end": (("ln_post", "T S", "the last block's output, normed: last_hidden_state"),),
}

# Part's number, number within the part, and the rest of the row.
ROWS = {
    (part == "block", name): (part, (number, within), axes, meaning)
    for number, (part, rows) in enumerate(PARTS.items())
    for within, (name, axes, meaning) in enumerate(rows)
}


class Stage(str):
    """A stage: the name that files and taps have for it, and what is known of it. Frozen.

    `Stage("block.3.attn.q")` looks a name up, with any block's number; `Stage("block.I.attn.q")` is
    that stage of any block. Raises ParityError for an unknown name.
    """

    __slots__ = ("axes", "block", "meaning", "order", "part")

    part: str  # "front end", "stem", "block" or "end"
    block: int | None  # its block's number; None outside the blocks, and of any block
    axes: tuple[str, ...]  # letters of the legend above; a batch has one axis more, in front
    order: tuple[int, int, int]  # compares as the stages follow each other: part, block, place
    meaning: str

    def __new__(cls, name: str) -> Stage:
        found = re.fullmatch(r"block\.(\d+|I)\.(.+)", name)
        row = ROWS.get((found is not None, found[2] if found else name))
        if row is None:
            raise ParityError(unknown(name))
        self = super().__new__(cls, name)
        part, (number, within), axes, meaning = row
        block = block_number(name, found[1]) if found and found[1] != "I" else None
        letters = tuple(letter.replace("+", " + ") for letter in axes.split())
        facts = {"part": part, "block": block, "axes": letters, "meaning": meaning}
        for key, value in {**facts, "order": (number, block or 0, within)}.items():
            object.__setattr__(self, key, value)
        return self

    def __reduce__(self) -> tuple[type[Stage], tuple[str]]:
        return Stage, (str(self),)  # copies are looked up again: nothing of a Stage can be set

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError(f"a Stage is frozen: {key} cannot be set")

    @property
    def of_front_end(self) -> bool:
        return self.part == "front end"

    @property
    def time_axis(self) -> int | None:
        """The axis along which time runs in frames or positions, if there is one."""
        return next((i for i, letter in enumerate(self.axes) if letter in "FT"), None)

    @property
    def within(self) -> str:
        """Its name without the block: "attn.q"."""
        return self.split(".", 2)[2] if self.part == "block" else str(self)

    def in_block(self, block: int | str) -> Stage:
        """The same stage of another block; "I": of any block. What is in no block is itself."""
        return Stage(f"block.{block}.{self.within}") if self.part == "block" else self


def block_number(name: str, digits: str) -> int:
    if len(digits) > 9 or int(digits) >= MAX_LAYERS:  # int() of thousands of digits raises
        raise ParityError(f"{name}: expected a block's number below {MAX_LAYERS}")
    return int(digits)


FRONT_END = tuple(Stage(name) for name, _, _ in PARTS["front end"])
STEM = tuple(Stage(name) for name, _, _ in PARTS["stem"])
BLOCK = tuple(Stage(f"block.I.{name}") for name, _, _ in PARTS["block"])
LAST = tuple(Stage(name) for name, _, _ in PARTS["end"])
(LN_POST,) = LAST
Name = TypeVar("Name", str, Stage)  # of what a dictionary of tensors has as its keys


def of_encoder(n_layer: int) -> list[Stage]:
    """The encoder's stages, in order, for a model of n_layer blocks."""
    return [*STEM, *(stage.in_block(i) for i in range(n_layer) for stage in BLOCK), *LAST]


# --- names that are none of ours: `files.names` has the rest --------------------------------------

# `mel` alone in a file is the features, unless its values say otherwise (`resolve.is_power`); next
# to other front-end stages it is the stage of that name.
ALIASES = {
    "log_mel": "features",
    "input_features": "features",
    "mel": "features",
    "last_hidden_state": "ln_post",
}


def unknown(name: str, n_layer: int | None = None) -> str:
    """What an error says of a name that no stage has."""
    if re.fullmatch(r"arr_\d+", name):
        return (
            f"{name!r} is NumPy's name for an array saved without one: save it as "
            "np.savez(path, log_mel=...); `melfront parity stages` lists the names"
        )
    name = shorten(name, 200)
    near = nearest(name, 0.4, n_layer)
    hint = f"did you mean {near}? " if near else ""
    return f"unknown stage {name!r}; {hint}`melfront parity stages` lists them"


def nearest(name: str, cutoff: float, n_layer: int | None = None) -> str:
    """The known name that is most like this one, if any is by more than `cutoff` (0 to 1)."""
    every = [*FRONT_END, *of_encoder(1 if n_layer is None else n_layer), *ALIASES]
    return "".join(difflib.get_close_matches(name, sorted(every), n=1, cutoff=cutoff))


# --- names in files, each of which is there once --------------------------------------------------


def check_once(names: Iterable[str], where: str) -> None:
    """Raises ParityError for a name that is there twice: one of the two would be lost."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ParityError(f"{where}: {shown(name)} is in it twice; keep one")
        seen.add(name)


def from_json(text: str, where: str, **options: Any) -> Any:
    """The value of a JSON text. Raises ParityError, also where an object has a key twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        check_once((key for key, _ in pairs), where)
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once, **options)
    except ParityError:
        raise
    except (ValueError, RecursionError) as error:
        raise ParityError(f"{where}: not whole JSON ({error}); write it again") from error


def shown(name: str, most: int = 60) -> str:
    """A name of the file's own, quoted, and cut so that a line stays one."""
    return repr(name if len(name) <= most else f"{name[: most - 3]}...")


# --- the list -------------------------------------------------------------------------------------


def listing() -> str:
    """All stages as text, one a line: name, shape, meaning."""
    rows = [*FRONT_END, *STEM, *BLOCK, *LAST]
    width = max(map(len, rows))
    return "\n".join(
        f"{stage:{width}}  {'(' + ', '.join(stage.axes) + ')':10}  {stage.meaning}"
        for stage in rows
    )
