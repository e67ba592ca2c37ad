"""Every stage from the waveform to the last hidden state: name, order, shape, what it is.

# B clips  L samples  N n_fft  F frames  K frequencies  M mel bins
# T positions  S state  H heads  A mlp width
"""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

from .files.tensors import ParityError


class Stage(NamedTuple):
    """One stage; `name` has {i} in place of the block's number."""

    name: str
    shape: tuple[str, ...]
    meaning: str

    @property
    def step(self) -> int | None:
        """The axis along which time runs in frames or positions, if there is one."""
        axes = [i for i, letter in enumerate(self.shape) if letter in "FT"]
        return axes[0] if axes else None


FRONT_END = (
    Stage(
        "padded", ("L + N",), "the waveform, zeros up to 30 s, 200 samples mirrored at each edge"
    ),
    Stage("frames", ("F", "N"), "pieces of 400 samples, one every 160"),
    Stage("windowed", ("F", "N"), "each piece times the periodic Hann window"),
    Stage("spectrum", ("F", "K"), "its Fourier transform, complex"),
    Stage("power", ("F", "K"), "the squared size of each frequency"),
    Stage("mel", ("M", "F"), "weighted sums of neighbouring frequencies"),
    Stage("log", ("M", "F"), "log10 of at least 1e-10"),
    Stage("clamped", ("M", "F"), "at least the clip's maximum less 8"),
    Stage("features", ("M", "F"), "(x + 4) / 4: what the encoder is given"),
)

STEM = (
    Stage("conv1", ("S", "F"), "first convolution, stride 1"),
    Stage("gelu1", ("S", "F"), "its GELU"),
    Stage("conv2", ("S", "T"), "second convolution, stride 2: 20 ms a step from here"),
    Stage("gelu2", ("S", "T"), "its GELU"),
    Stage("positions", ("T", "S"), "time first, the positions added: the first block's input"),
)

BLOCK = (
    Stage("block.{i}.attn_ln", ("T", "S"), "layer norm before attention"),
    Stage("block.{i}.attn.q", ("T", "S"), "queries, heads side by side, not yet scaled"),
    Stage("block.{i}.attn.k", ("T", "S"), "keys, which have no bias"),
    Stage("block.{i}.attn.v", ("T", "S"), "values"),
    Stage(
        "block.{i}.attn.scores", ("H", "T", "T"), "q k^T / sqrt(head_dim): query down, key across"
    ),
    Stage("block.{i}.attn.weights", ("H", "T", "T"), "softmax of the scores, along the keys"),
    Stage("block.{i}.attn.context", ("T", "S"), "weights v, heads side by side again"),
    Stage("block.{i}.attn.out", ("T", "S"), "its projection"),
    Stage("block.{i}.attn_residual", ("T", "S"), "added to the block's input"),
    Stage("block.{i}.mlp_ln", ("T", "S"), "layer norm before the MLP"),
    Stage("block.{i}.mlp.fc1", ("T", "A"), "first linear map, four times as wide"),
    Stage("block.{i}.mlp.gelu", ("T", "A"), "its GELU"),
    Stage("block.{i}.mlp.fc2", ("T", "S"), "second linear map"),
    Stage("block.{i}.mlp_residual", ("T", "S"), "added to what was there: the block's output"),
)

LAST = (Stage("ln_post", ("T", "S"), "the last block's output, normed: last_hidden_state"),)

# What other programs call them. `mel` alone in a file is somebody's features, unless its values say
# otherwise (`compare.is_power`); next to other front-end stages it is the stage of that name.
ALIASES = {
    "log_mel": "features",
    "input_features": "features",
    "mel": "features",
    "last_hidden_state": "ln_post",
}
HIDDEN = "hidden_states."


def front_end_names() -> list[str]:
    return [stage.name for stage in FRONT_END]


def encoder_names(n_layer: int) -> list[str]:
    """The encoder's stages, in order, for a model of n_layer blocks."""
    blocks = [stage.name.format(i=i) for i in range(n_layer) for stage in BLOCK]
    return [s.name for s in STEM] + blocks + [s.name for s in LAST]


def find(name: str) -> Stage:
    """The stage of this name, block number and all. Raises KeyError."""
    general = re.sub(r"^block\.\d+\.", "block.{i}.", name)
    for stage in (*FRONT_END, *STEM, *BLOCK, *LAST):
        if stage.name == general:
            return stage._replace(name=name)
    raise KeyError(name)


def canonical(names: list[str], n_layer: int | None) -> dict[str, str]:
    """The stage that each of the names in a file stands for, name to stage.

    Takes our names, those of ALIASES, and `hidden_states.i` as transformers counts them. Raises
    ParityError for a name that is no stage (with the nearest one), or two names for one stage; a
    hidden state that is given under another name as well is taken once.
    """
    known = set(front_end_names()) | set(encoder_names(n_layer or 0))
    spelled_out = set(front_end_names()) - {"mel"}
    result: dict[str, str] = {}
    for name in sorted(names, key=lambda name: name.startswith(HIDDEN)):
        stage = name
        hidden = re.fullmatch(rf"{re.escape(HIDDEN)}(\d{{1,3}})", name)
        if name == "mel" and any(
            n in spelled_out or ALIASES.get(n) == "features" for n in names if n != "mel"
        ):
            stage = "mel"
        elif name in ALIASES:
            stage = ALIASES[name]
        elif hidden:
            stage = hidden_state(int(hidden[1]), n_layer)
        elif name not in known and not (n_layer is None and re.match(r"block\.\d+\.", name)):
            raise ParityError(unknown(name, sorted(known | set(ALIASES))))
        if stage in result.values() and not hidden:
            raise ParityError(f"two tensors for the stage {stage}: {name!r} and another; keep one")
        if stage not in result.values():
            result[name] = stage
    return result


def hidden_state(i: int, n_layer: int | None) -> str:
    """The stage that transformers returns as hidden_states[i]. Raises ParityError."""
    if n_layer and i > n_layer:
        raise ParityError(
            f"{HIDDEN}{i} is no stage: an encoder of {n_layer} blocks has {HIDDEN}0 to "
            f"{HIDDEN}{n_layer}"
        )
    if i == 0:
        return "positions"
    return "ln_post" if i == n_layer else f"block.{i - 1}.mlp_residual"


def unknown(name: str, known: list[str]) -> str:
    if re.fullmatch(r"arr_\d+", name):
        return (
            f"{name!r} is NumPy's name for an array saved without one: save it as "
            "np.savez(path, log_mel=...); `python -m parity stages` lists the names"
        )
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{name!r} is no stage; {hint}`python -m parity stages` lists them"


def listing(n_layer: int = 1) -> str:
    """All stages as text, one a line."""
    rows = [*FRONT_END, *STEM, *BLOCK, *LAST]
    width = max(len(stage.name) for stage in rows)
    return "\n".join(
        f"{stage.name.replace('{i}', 'I'):{width}}  {'(' + ', '.join(stage.shape) + ')':10}  "
        f"{stage.meaning}"
        for stage in rows
    )
