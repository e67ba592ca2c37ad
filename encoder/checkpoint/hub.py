"""Finds a checkpoint's files: in a folder, in the local Hugging Face cache, or on the Hub."""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import SIZES
from .files import SUFFIXES, CheckpointError

WEIGHT_FILES = (  # in order of preference
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

Get = Callable[[str], Path | None]  # finds a file of the same folder or repository by its name


def locate(name: str, revision: str | None, local_only: bool) -> tuple[Path, Get]:
    """The file that holds or lists the weights, and a function to find its neighbours."""
    path = Path(os.path.expanduser(name))  # Path.expanduser raises for an unknown user
    folder = path if path.is_dir() else path.parent

    def beside(filename: str) -> Path | None:
        return folder / filename if (folder / filename).is_file() else None

    if path.is_file():
        return path, beside
    sources: list[Get] = [beside]
    if not path.is_dir():
        name = _repository(name)
        sources = _hub(name, revision, local_only)

    def get(filename: str) -> Path | None:
        return next(filter(None, (source(filename) for source in sources)), None)

    for source, filename in itertools.product(sources, WEIGHT_FILES):
        if weights := source(filename):
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


def _hub(repository: str, revision: str | None, local_only: bool) -> list[Get]:
    """Functions that find a file of a repository: in the local cache, then on the Hub itself."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    def cached(filename: str) -> Path | None:
        try:
            path = try_to_load_from_cache(repository, filename, revision=revision)
        except ValueError as error:  # the name is malformed
            raise CheckpointError(f"{repository!r} is not a Hub name: {error}") from error
        return Path(path) if isinstance(path, str) else None  # a sentinel means "known missing"

    def download(filename: str) -> Path | None:
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # hides its retries; the final error is raised
        options: Any = {"revision": revision, "local_files_only": local_only}
        try:
            return Path(hf_hub_download(repository, filename, **options))
        except LocalEntryNotFoundError as error:
            at_revision = f" at revision {revision}" if revision else ""
            raise CheckpointError(
                f"{repository} is not a local folder, its {filename} is not in the local Hugging "
                f"Face cache{at_revision}, and the Hub cannot be reached or is switched off; give "
                f"a local folder, or run `hf download {repository}` where there is a network"
            ) from error
        except EntryNotFoundError:  # the repository exists but has no such file
            return None
        except Exception as error:  # no such repository, no access, a lost connection, a full disk
            reason = str(error).strip().partition("\n")[0]
            raise CheckpointError(f"{repository}: {type(error).__name__}: {reason}") from error
        finally:
            logging.set_verbosity(verbosity)

    return [cached, download]
