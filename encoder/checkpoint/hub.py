"""Finds a checkpoint's files: in a folder, in the local Hugging Face cache, or on the Hub."""

from __future__ import annotations

import difflib
import functools
import itertools
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import SIZES
from .files import SUFFIXES, CheckpointError
from .ranges import Wanted, connect, fetch

WEIGHT_FILES = (  # in order of preference
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

QUIET = threading.Lock()  # huggingface_hub has one verbosity for all threads
Get = Callable[[str], Path | None]  # finds a file of the same folder or repository by its name


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
            if (
                on_hub and weights.parent.parent.name == "snapshots"
            ):  # a branch can move between two files
                sources = _hub(name, weights.parent.name, local_only, wanted)
            return weights, get
    raise CheckpointError(f"{name} has no weights; looked for {', '.join(WEIGHT_FILES)}")


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
    from huggingface_hub import _CACHED_NO_EXIST, constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    offline = local_only or constants.HF_HUB_OFFLINE
    encoders = Path(constants.HF_ASSETS_CACHE, "melfront")
    commit = functools.cache(functools.partial(connect, repository, revision))

    def look_up(cache_dir: Path | None, filename: str) -> Any:
        try:
            return try_to_load_from_cache(repository, filename, cache_dir, revision)
        except ValueError as error:  # the name is malformed
            raise CheckpointError(f"{repository!r} is not a Hub name: {error}") from error

    def cached(cache_dir: Path | None, filename: str) -> Path | None:
        path = look_up(cache_dir, filename)
        return Path(path) if isinstance(path, str) else None  # a sentinel means "known missing"

    def download(filename: str) -> Path | None:
        options: dict[str, Any] = {"revision": revision, "local_files_only": local_only}
        known = None if offline else commit()
        if known and _is_writable(encoders):
            if filename.endswith(".json"):  # the next start finds it with the tensors
                options["cache_dir"] = encoders
            elif filename.endswith(SUFFIXES[0]):
                path = fetch(repository, filename, revision, known, encoders, wanted)
                if path:
                    return path
        return Path(hf_hub_download(repository, filename, **options))

    def ask(filename: str) -> Path | None:
        fixed = re.fullmatch("[0-9a-f]{40}", revision or "")  # its files never change
        if fixed and _CACHED_NO_EXIST in (look_up(None, filename), look_up(encoders, filename)):
            return None
        with QUIET:
            verbosity = logging.get_verbosity()
            logging.set_verbosity_error()  # hides its retries; the final error is raised
            try:
                return download(filename)
            except (LocalEntryNotFoundError, ConnectionError) as error:
                raise _unreachable(repository, filename, revision) from error
            except EntryNotFoundError:  # the repository exists but has no such file
                return None
            except CheckpointError:
                raise
            except Exception as error:  # no such repository, no access, a lost connection
                reason = str(error).strip().partition("\n")[0]
                raise CheckpointError(f"{repository}: {type(error).__name__}: {reason}") from error
            finally:
                logging.set_verbosity(verbosity)

    return [functools.partial(cached, None), functools.partial(cached, encoders), ask]


def _unreachable(repository: str, filename: str, revision: str | None) -> CheckpointError:
    at_revision = f" at revision {revision}" if revision else ""
    return CheckpointError(
        f"{repository} is not a local folder, its {filename} is not in the local Hugging Face "
        f"cache{at_revision}, and the Hub cannot be reached or is switched off; give a local "
        f"folder, or run `hf download {repository}` where there is a network"
    )


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
