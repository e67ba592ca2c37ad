"""Encode clips one after the other, and write the windows of each as they are computed.

# W windows  T positions  S state
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from tqdm import tqdm  # type: ignore[import-untyped]  # huggingface_hub needs it: it is there

from melfront import Window
from melfront.command import PROGRESS, UsageError

from . import table
from .clips import Job
from .reading import Begun, Failed, ahead, read
from .writing import written

if TYPE_CHECKING:
    from torch import Tensor

    from .. import WhisperEncoder


class UnreadableError(Exception):
    """A clip cannot be read; others can."""


def encode_all(
    model: WhisperEncoder,
    jobs: list[Job],
    about: dict[str, str],
    check_range: bool,
    hidden_states: bool,
) -> None:
    """Encode every clip, and print a line about each; of a single clip, its stages as a table.

    about: metadata of the files; hidden_states: all of them, not only the last.
    Raises UsageError at the end for clips that cannot be read, and at once for a file that cannot
    be written.
    """
    import torch

    if not hidden_states:
        about = about | {"hidden_states": "False"}
    single = len(jobs) == 1
    items = ahead(read(jobs, model.config, about, check_range, resume=not single))
    with closing(items), torch.inference_mode():
        if single:
            show(model, items, check_range, hidden_states)
        elif failed := run_all(model, jobs, items, hidden_states):
            n = f"{len(failed)} of {len(jobs)} clips could not be read"
            raise UsageError(f"{n}: {'; '.join(failed)}")


def show(model: WhisperEncoder, items: Iterator[Any], check_range: bool, keep: bool) -> None:
    """Encode a clip and print its stages. items: Begun and its windows; keep: as for `encode`."""
    begun = next(items)
    if isinstance(begun, Failed):
        raise UsageError(begun.error)
    rows = [table.HEADING]
    n_blocks = begun.n_windows * len(model.blocks)
    blocks = tqdm(desc=begun.job.clip.name, unit="block", total=n_blocks, **PROGRESS)
    try:
        with blocks, table.block_rows(model, rows, blocks.update):
            windows = table.with_rows(windows_of(begun, items), model, rows, check_range)
            summary, *written_to = encode(model, begun, windows, keep)
    except UnreadableError as error:
        raise UsageError(str(error)) from error
    print(summary, "", *rows, "", table.LEGEND, *written_to, sep="\n")


def run_all(model: WhisperEncoder, jobs: list[Job], items: Iterator[Any], keep: bool) -> list[str]:
    """Encode clips and print what became of each; returns why some could not be read.

    items: what `read` yields; keep: as for `encode`.
    """
    # The time left is estimated from the files' sizes, since clips differ in length.
    sizes = {job.clip: job.clip.stat().st_size for job in jobs if job.clip.is_file()}
    options = {"unit": "B", "unit_scale": True, **PROGRESS}
    failed = []
    with tqdm(desc=f"{len(jobs)} clips", total=sum(sizes.values()), **options) as progress:
        for item in items:
            clip, out, _ = item.job
            size = sizes.get(clip, 0)
            try:
                if isinstance(item, Failed):
                    raise UnreadableError(item.error)
                if isinstance(item, Begun):
                    advance = partial(progress.update, size / item.n_windows)
                    lines = encode(model, item, windows_of(item, items, advance), keep)
                else:  # Kept
                    progress.total -= size
                    lines = [f"{clip}: kept {out}"]
            except UnreadableError as error:
                failed.append(str(error))
                lines = [f"not encoded: {error}"]
            with progress.external_write_mode():
                print(*lines, sep="\n", flush=True)
    return failed


def windows_of(
    begun: Begun, items: Iterator[Any], advance: Callable[[], Any] = int
) -> Iterator[Window]:
    """The windows of the clip that has begun; `advance` is called after each.

    Raises UnreadableError where they end too early.
    """
    for item in islice(items, begun.n_windows):
        if isinstance(item, Failed):
            raise UnreadableError(item.error)
        yield item
        advance()


def encode(model: WhisperEncoder, begun: Begun, windows: Iterable[Window], keep: bool) -> list[str]:
    """Encode the windows of a clip and write them, if to a file; returns the lines to print.

    keep: also write every hidden state. Raises UsageError where the file cannot be written, and for
    hidden states that are not finite.
    """
    (clip, out, _), n_windows, n_samples, about = begun
    n_frames, tensors = 0, {}
    with ExitStack() as stack:
        write = stack.enter_context(written(out, n_windows, about)) if out else None
        for window in windows:
            tensors = tensors_of(model, window, keep and write is not None)
            n_frames += int(window.attention_mask.sum())
            if write:
                write(tensors)
    shape = tuple(tensors["last_hidden_state"].shape)  # (T, S)
    shape = (n_windows, *shape) if n_windows > 1 else shape  # (W, T, S)
    lines = [f"{clip}: {n_samples} samples, {n_frames} frames; hidden states {shape}"]
    return [*lines, f"written to {out}: {', '.join(tensors)}"] if out else lines


def tensors_of(model: WhisperEncoder, window: Window, keep: bool) -> dict[str, Tensor]:
    """What a file holds of a window, by name; with every hidden state if `keep`.

    Raises UsageError for hidden states that are not finite.
    """
    import torch

    last, states = model(window.log_mel, output_hidden_states=keep)
    if not torch.isfinite(last).all():
        raise UsageError("--model: its hidden states are not finite; its weights are too large")
    return {
        "log_mel": torch.from_numpy(window.log_mel),
        "attention_mask": torch.from_numpy(window.attention_mask),
        "last_hidden_state": last[0],
        **{f"hidden_states.{i}": x[0] for i, x in enumerate(states or ())},
    }
