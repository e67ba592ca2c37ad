"""Read clips and compute their features ahead of the encoder, in a thread of its own."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import melfront
from melfront import AudioError, Window
from melfront.audio import origin, windows_of
from melfront.command import one_line
from melfront.command.ends import reason

from ..config import EncoderConfig
from .clips import Job
from .writing import is_made

# Windows that wait for the encoder, 3.5 MB each. A clip of fewer is read once; of a longer one the
# samples are counted first, because the head of a file says how many windows follow.
AHEAD = 4


class Begun(NamedTuple):
    """The next n_windows items are the windows of this clip, or end in a Failed."""

    job: Job
    n_windows: int
    n_samples: int
    about: dict[str, str]  # metadata of the file


class Kept(NamedTuple):
    """The clip's output is there."""

    job: Job


class Failed(NamedTuple):
    """The clip cannot be read."""

    job: Job
    error: str


def ahead(items: Generator[Any], size: int = AHEAD) -> Generator[Any]:
    """The items in order, `size` of them computed in advance in another thread; None is left out.

    An iterator that takes long to its next item may yield None: to stop, one waits for an item.
    """
    end = object()
    pool = ThreadPoolExecutor(1, "reader")
    waiting = deque(pool.submit(next, items, end) for _ in range(size))
    try:
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            if item is not None:
                yield item
    finally:
        pool.shutdown(cancel_futures=True)
        items.close()


def read(
    jobs: list[Job],
    config: EncoderConfig,
    about: dict[str, str],
    check_range: bool,
    resume: bool,
) -> Generator[Begun | Window | Kept | Failed | None]:
    """Begun and the windows of each clip; or Failed; or Kept, to resume where the output is there.

    about: metadata of every file. A clip that cannot be read does not stop the others.
    """
    for job in jobs:
        try:
            of_clip = dict(about)
            if job.out and job.clip.is_file():
                of_clip["file_sha256"] = file_digest(job.clip)
                if resume and is_made(job.out, of_clip):
                    yield Kept(job)
                    continue
            yield from windows(job, config, of_clip, check_range)
        except Exception as error:
            text = one_line(reason(error))  # raises a bug
            yield Failed(job, text if str(job.clip) in text else f"{job.clip}: {text}")


def windows(
    job: Job, config: EncoderConfig, about: dict[str, str], check_range: bool
) -> Iterator[Begun | Window | None]:
    """Begun, then the windows of a clip. Raises what `melfront.stream` does."""
    seconds = config.n_frames * melfront.HOP_LENGTH / melfront.SAMPLE_RATE
    size = round(seconds * melfront.SAMPLE_RATE)
    # Compiled code gives other bits, and is worth its start only before the fastest encoders.
    options: Any = {"n_mels": config.n_mels, "check_range": check_range, "compiled": False}
    stream = melfront.stream(job.clip, seconds, **options)
    head = list(islice(stream, AHEAD))
    n_samples = job.n_samples or sum(len(window.audio) for window in head)
    if len(head) == AHEAD and not job.n_samples:
        for n_samples in counted(job.clip, check_range):  # noqa: B007  # the last is the sum
            yield None
    n_windows = -(-n_samples // size)
    about |= origin(job.clip, head[0].audio, size, check_range) | {"samples": str(n_samples)}
    yield Begun(job, n_windows, n_samples, about)
    left = n_samples
    for i, window in enumerate(islice(chain(head, stream), n_windows), 1):
        left -= len(window.audio)
        if i == n_windows and left:
            break
        yield window
    if left:
        raise AudioError(f"{job.clip}: it was changed while it was read; run this again")


def counted(clip: Path, check_range: bool) -> Iterator[int]:
    """Reads a clip; yields how many samples that makes so far. Raises what `load_audio` does."""
    total = 0
    for audio in windows_of(clip, melfront.N_SAMPLES, check_range):
        total += len(audio)
        yield total


def file_digest(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    hashed = hashlib.sha256()
    with file.open("rb") as opened:
        while piece := opened.read(1 << 20):
            hashed.update(piece)
    return hashed.hexdigest()
