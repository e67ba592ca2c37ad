"""Finds a checkpoint's files: in a folder, in the local Hugging Face cache, or on the Hub.

From the Hub only the encoder's tensors are downloaded, of a safetensors file. Its header says which
bytes they are, and they become a smaller file of the same format and names, in a cache of the Hub's
layout: huggingface_hub finds a file there, as in its own, without a network.
"""

from __future__ import annotations

import difflib
import functools
import io
import itertools
import os
import re
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from melfront.command import replacing

from ..config import SIZES
from .files import MAX_JSON, SUFFIXES, CheckpointError, read_header, subset
from .foreign import folder_kind, repository_kind
from .ranges import Refused, connect, download, read

WEIGHT_FILES = (  # in order of preference
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "weights.safetensors",  # MLX's
    "weights.npz",
)

QUIET = threading.Lock()  # huggingface_hub has one verbosity for all threads
Get = Callable[[str], Path | None]  # finds a file of the same folder or repository by its name
Wanted = Callable[[Collection[str], Path], Collection[str]]  # the tensors to read, of those in path


def locate(name: str, revision: str | None, local_only: bool, wanted: Wanted) -> tuple[Path, Get]:
    """The file that holds or lists the weights, and a function to find its neighbours.

    wanted: called with the names of the tensors of a file that is on the Hub; says which to read.
    """
    path = Path(os.path.expanduser(name))  # Path.expanduser raises for an unknown user
    folder = path if path.is_dir() else path.parent

    def beside(filename: str) -> Path | None:
        return folder / filename if (folder / filename).is_file() else None

    if path.is_file():
        return path, beside
    sources: list[Get] = [beside]
    on_hub = not path.is_dir()
    if on_hub:
        name = _repository(name)
        sources = _hub(name, revision, local_only, wanted)

    def get(filename: str) -> Path | None:
        return next(filter(None, (source(filename) for source in sources)), None)

    for source, filename in itertools.product(sources, WEIGHT_FILES):
        if weights := source(filename):
            # The neighbours are those of the same commit: a branch can move between two files.
            if on_hub and weights.parent.parent.name == "snapshots":
                sources = _hub(name, weights.parent.name, local_only, wanted)
            return weights, get
    if on_hub:
        held = None if local_only else repository_kind(_listing(name, revision), SUFFIXES)
    else:
        held = folder_kind(path, SUFFIXES, WEIGHT_FILES)
    looked = f"looked for {', '.join(WEIGHT_FILES)}"
    raise CheckpointError(f"{name} has no weights; {held or looked}")


def _listing(repository: str, revision: str | None) -> list[str]:
    """The names of a repository's files; none if the Hub does not say."""
    from huggingface_hub import list_repo_files

    with QUIET:
        try:
            return list_repo_files(repository, revision=revision)
        except Exception:  # it is only for a message
            return []


def _repository(name: str) -> str:
    """The Hub's name of a published size, or the name itself. Raises CheckpointError."""
    size = name.removeprefix("whisper-")
    if size in SIZES:
        if size.startswith("distil-"):
            return f"distil-whisper/{size}"
        return "openai/whisper-" + {"large-v1": "large", "turbo": "large-v3-turbo"}.get(size, size)
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) and not name.endswith(SUFFIXES):
        return name
    near = difflib.get_close_matches(size, SIZES, n=1)
    raise CheckpointError(
        f"{name!r} is neither a file or folder nor the name of a Whisper model, such as 'tiny' or "
        "'openai/whisper-tiny'" + (f"; the nearest known size is {near[0]!r}" if near else "")
    )


def _hub(repository: str, revision: str | None, local_only: bool, wanted: Wanted) -> list[Get]:
    """Functions that find a file of a repository: in the local caches, then on the Hub itself.

    There are two caches of one layout: that of the Hub, for whole files, and "melfront" among the
    assets (HF_ASSETS_CACHE), for files without decoder, which other programs must not find.
    """
    from huggingface_hub import (
        _CACHED_NO_EXIST,
        constants,
        hf_hub_download,
        try_to_load_from_cache,
        utils,
    )

    encoders = Path(constants.HF_ASSETS_CACHE, "melfront")
    # Before 1.0 huggingface_hub has nothing that reads a range of bytes: it sends the whole file.
    whole = local_only or constants.HF_HUB_OFFLINE or not hasattr(utils, "http_stream_backoff")
    commit = functools.cache(lambda: None if whole else connect(repository, revision))

    def look_up(cache: Path | None, filename: str) -> Any:
        try:
            return try_to_load_from_cache(repository, filename, cache, revision)
        except ValueError as error:  # the name is malformed
            raise CheckpointError(f"{repository!r} is not a Hub name: {error}") from error

    def cached(cache: Path | None, filename: str) -> Path | None:
        path = look_up(cache, filename)
        return Path(path) if isinstance(path, str) else None  # a sentinel means "known missing"

    def fetched(filename: str) -> Path | None:
        options: dict[str, Any] = {"revision": revision, "local_files_only": local_only}
        if (at := commit()) and _is_writable(encoders):
            if filename.endswith(".json"):  # the next start finds it with the tensors
                options["cache_dir"] = encoders
            elif filename.endswith(SUFFIXES[0]) and (
                path := _fetch(repository, filename, revision, at, encoders, wanted)
            ):
                return path
        return Path(hf_hub_download(repository, filename, **options))

    def ask(filename: str) -> Path | None:
        fixed = re.fullmatch("[0-9a-f]{40}", revision or "")  # its files never change
        if fixed and _CACHED_NO_EXIST in (look_up(None, filename), look_up(encoders, filename)):
            return None
        with _one_line(repository, filename, revision):
            return fetched(filename)
        return None

    return [functools.partial(cached, None), functools.partial(cached, encoders), ask]


@contextmanager
def _one_line(repository: str, filename: str, revision: str | None) -> Iterator[None]:
    """Turns huggingface_hub's errors into a CheckpointError, but for a file that is not there."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    with QUIET:
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # hides its retries; the final error is raised
        try:
            yield
        except (LocalEntryNotFoundError, ConnectionError) as error:
            at_revision = f" at revision {revision}" if revision else ""
            raise CheckpointError(
                f"{repository} is not a local folder, its {filename} is not in the local Hugging "
                f"Face cache{at_revision}, and the Hub cannot be reached or is switched off; give "
                f"a local folder, or run `hf download {repository}` where there is a network"
            ) from error
        except EntryNotFoundError:  # the repository exists but has no such file
            pass
        except CheckpointError:
            raise
        except Exception as error:  # no such repository, no access, a lost connection, a full disk
            reason = str(error).strip().partition("\n")[0]
            raise CheckpointError(f"{repository}: {type(error).__name__}: {reason}") from error
        finally:
            logging.set_verbosity(verbosity)


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _fetch(
    repository: str, filename: str, revision: str | None, commit: str, cache: Path, wanted: Wanted
) -> Path | None:
    """A safetensors file in this cache with the wanted tensors of one on the Hub.

    None if the Hub sends no ranges of it. An interrupted download goes on where it ended: what is
    written is always the beginning of the same bytes, because a commit's files never change.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name

    # (mypy: huggingface_hub.utils makes its __all__ when it is imported.)
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    folder = cache / repo_folder_name(repo_id=repository, repo_type="model")
    path = folder / "snapshots" / commit / filename
    partial = folder / "blobs" / f"{commit}-{filename.replace('/', '--')}.incomplete"
    ref = folder / "refs" / (revision or constants.DEFAULT_REVISION)
    for file in path, partial, ref:
        file.parent.mkdir(parents=True, exist_ok=True)
    url = hf_hub_url(repository, filename, revision=commit)
    with WeakFileLock(partial.with_suffix(".lock")):
        if not path.is_file():  # another process may have been faster
            try:
                size, head, spans = _plan(url, Path(repository, filename), wanted)
                download(url, size, head, spans, partial, f"{repository}: encoder")
            except Refused:
                partial.unlink(missing_ok=True)
                return None
            os.replace(partial, path)
        if ref.name != commit:  # the next start finds the commit by the revision's name
            with replacing(ref) as temporary:
                temporary.write_text(commit)
    return path


def _plan(url: str, name: Path, wanted: Wanted) -> tuple[int, bytes, list[tuple[int, int]]]:
    """The size of the file at `url`, and the header and the bytes of the smaller one."""
    pieces = [*read(url, 0, 8)]
    length = int.from_bytes(b"".join(chunk for chunk, _ in pieces), "little")
    if length > MAX_JSON:
        raise CheckpointError(f"{name} is damaged: a header of {length} bytes")
    pieces += read(url, 8, 8 + length)
    size = pieces[-1][1]
    start = b"".join(chunk for chunk, _ in pieces)
    entries = read_header(io.BytesIO(start), size, name)
    return size, *subset(entries, len(start), wanted(entries, name))
