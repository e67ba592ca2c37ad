"""The stages of a clip's first window as a table.

# T positions
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

import melfront
from melfront import Window

if TYPE_CHECKING:
    from torch import Tensor

    from .. import WhisperEncoder

# The step of each axis. A frame starts every hop; conv2, with stride 2, merges two into a position.
FRAME, POSITION = "10 ms", "20 ms"
STEPS = {
    "padded": "0.0625 ms",
    **dict.fromkeys(("frames", "windowed"), f"{FRAME}, 0.0625 ms"),
    **dict.fromkeys(("spectrum", "power"), f"{FRAME}, 40 Hz"),
    **dict.fromkeys(("mel", "log", "clamped", "features"), f"mel bin, {FRAME}"),
    **dict.fromkeys(("conv1", "gelu1"), f"channel, {FRAME}"),
    **dict.fromkeys(("conv2", "gelu2"), f"channel, {POSITION}"),
}
# A table of 80 columns, to fit a terminal.
HEADING = f"{'stage':22}{'shape':13}{'step of each axis':17}{'min':>9}{'mean':>10}{'max':>9}"
LEGEND = f"1 frame = 160 samples = {FRAME}, 1 position = 320 samples = {POSITION}"


def row(stage: str, x: Any) -> str:
    """A line of the table, for an array or tensor without batch axis."""
    steps = STEPS.get(stage, f"{POSITION}, channel")
    if isinstance(x, np.ndarray) and np.iscomplexobj(x):  # a tensor may be on a GPU
        steps, x = f"{steps}, |x|", np.abs(x)
    shape = str(tuple(x.shape))
    return f"{stage:22}{shape:13}{steps:17}{x.min():9.3g}{x.mean():10.3g}{x.max():9.3g}"


def stem_rows(model: WhisperEncoder, mel: np.ndarray[Any, Any]) -> list[str]:
    """The stages before the first block, of features (M, F)."""
    rows = []

    def tap(stage: str, x: Tensor) -> Tensor:
        rows.append(row(stage, x[0].float()))
        return x

    model.stem(model.check(mel, strict_length=True), tap)
    return rows


def with_rows(
    windows: Iterator[Window], model: WhisperEncoder, rows: list[str], check_range: bool
) -> Iterator[Window]:
    """The same windows; the stages of the first one up to the first block are added to the rows."""
    seconds = model.config.n_frames * melfront.HOP_LENGTH / melfront.SAMPLE_RATE
    for i, window in enumerate(windows):
        if i == 0:
            front_end = melfront.oracle.trace(
                window.audio, n_mels=model.config.n_mels, pad_to=seconds, check_range=check_range
            )
            rows += [row(stage, x) for stage, x in front_end.items()]
            rows += stem_rows(model, window.log_mel)
        yield window


@contextmanager
def block_rows(
    model: WhisperEncoder, rows: list[str], advance: Callable[[], Any]
) -> Iterator[None]:
    """Add the stages of the first window from the first block on; call `advance` for each block.

    Hooks, not a tap: for a tap each block computes its scores, which takes half its time again.
    """
    stages = [*(f"block.{i}.mlp_residual" for i in range(len(model.blocks))), "ln_post"]
    left = iter(stages)

    def add(output: Tensor) -> None:
        if stage := next(left, None):
            rows.append(row(stage, output[0].float()))

    def after_block(_block: Any, _inputs: Any, output: Tensor) -> None:
        advance()
        add(output)

    def after_model(_model: Any, _inputs: Any, output: Any) -> None:
        add(output.last_hidden_state)

    with ExitStack() as hooks:
        for block in model.blocks:
            hooks.enter_context(block.register_forward_hook(after_block))
        hooks.enter_context(model.register_forward_hook(after_model))
        yield
