"""Downloads the encoder's tensors of a safetensors file on the Hub, and not the decoder's.

The file's header says which bytes each tensor has. HTTP sends any range of bytes, and the ranges
that are needed become a smaller safetensors file, with the same names, in a cache of the Hub's
layout. `huggingface_hub` finds a file there, as in its own cache, without a network.

`huggingface_hub`'s session makes every request: token, proxy, redirects, offline mode, timeouts and
waiting after a 503 are as in its own downloads. Its `HfFileSystem` reads ranges too, but takes
whatever a server answers: where one ignores `Range`, that is the beginning of the file.
"""

from __future__ import annotations

import io
import json
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from melfront.command import replacing

from .files import MAX_JSON, CheckpointError, read_header

Wanted = Callable[[Collection[str], Path], Collection[str]]  # the tensors to read, of those in path

CONNECT = 2.5  # seconds: after 3 the user should have been told
RETRIES = 5  # without a byte in between


class Refused(Exception):
    """The server does not send the range of bytes that it was asked for."""


def connect(repository: str, revision: str | None) -> str | None:
    """The commit of a revision, None if the Hub names none: `hf_hub_download` will say why.

    Raises ConnectionError if the Hub cannot be reached. That is known early: hf_hub_download tries
    for 25 s, and resolving a name or trying each of a host's addresses can take longer. Only
    connecting is limited so; a slow answer has HF_HUB_ETAG_TIMEOUT.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, http_backoff  # type: ignore[attr-defined]

    url = hf_hub_url(repository, "config.json", revision=revision)
    connected = threading.Event()
    answers: list[Any] = []

    def trace(event: str, _: Any) -> None:  # "connection.connect_tcp.started", ...
        if event.startswith("http"):  # "http11.send_request_headers.started"
            connected.set()

    def ask() -> None:
        options: dict[str, Any] = {"timeout": constants.HF_HUB_ETAG_TIMEOUT}
        options |= {"retry_on_exceptions": (), "extensions": {"trace": trace}}
        try:
            answers.append(http_backoff("HEAD", url, headers=build_hf_headers(), **options))
        except Exception as error:
            answers.append(error)
        connected.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    if not connected.wait(CONNECT):
        raise ConnectionError(f"no connection in {CONNECT} s")
    thread.join()
    (answer,) = answers
    if isinstance(answer, OSError):  # an HTTP status, still after waiting
        raise answer
    if isinstance(answer, Exception):  # httpx's or httpx2's, by the version of huggingface_hub
        raise ConnectionError(str(answer)) from answer
    for response in (*answer.history, answer):
        commit = response.headers.get(constants.HUGGINGFACE_HEADER_X_REPO_COMMIT, "")
        if re.fullmatch("[0-9a-f]{40}", commit):  # it will be the name of a folder
            return str(commit)
    return None


def fetch(
    repository: str,
    filename: str,
    revision: str | None,
    commit: str,
    cache_dir: Path,
    wanted: Wanted,
) -> Path | None:
    """A safetensors file with the wanted tensors of one on the Hub, None if it sends no ranges.

    An interrupted download goes on where it ended: what is written is always the beginning of the
    same bytes, because a commit's files never change.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    folder = cache_dir / repo_folder_name(repo_id=repository, repo_type="model")
    path = folder / "snapshots" / commit / filename
    partial = folder / "blobs" / f"{commit}-{filename.replace('/', '--')}.incomplete"
    url = hf_hub_url(repository, filename, revision=commit)
    name = Path(repository, filename)
    partial.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(partial.with_suffix(".lock")):
        if not path.is_file():  # another process may have been faster
            try:
                pieces = [*_chunks(url, 0, 8)]
                length = int.from_bytes(b"".join(chunk for chunk, _ in pieces), "little")
                if length > MAX_JSON:
                    raise CheckpointError(f"{name} is damaged: a header of {length} bytes")
                pieces += _chunks(url, 8, 8 + length)
                size = pieces[-1][1]
                start = b"".join(chunk for chunk, _ in pieces)
                entries = read_header(io.BytesIO(start), size, name)
                head, spans = _subset(entries, len(start), wanted(entries, name))
                _download(url, size, head, spans, partial, f"{repository}: encoder")
            except Refused:
                partial.unlink(missing_ok=True)
                return None
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial, path)
        ref = folder / "refs" / (revision or constants.DEFAULT_REVISION)
        if ref.name != commit:  # the next start finds the commit by the revision's name
            ref.parent.mkdir(parents=True, exist_ok=True)
            with replacing(ref) as temporary:
                temporary.write_text(commit)
    return path


def _subset(
    entries: dict[str, Any], start: int, names: Collection[str]
) -> tuple[bytes, list[tuple[int, int]]]:
    """A safetensors header for these tensors alone, and the bytes of the old file to follow it."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    spans: list[tuple[int, int]] = []
    place = 0
    for name in sorted(names, key=lambda name: entries[name]["data_offsets"]):
        begin, end = entries[name]["data_offsets"]
        offsets = [place, place := place + end - begin]
        header[name] = {key: entries[name][key] for key in ("dtype", "shape")}
        header[name]["data_offsets"] = offsets
        first = spans.pop()[0] if spans and spans[-1][1] == start + begin else start + begin
        spans.append((first, start + end))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # aligns the tensors, as safetensors does
    return len(text).to_bytes(8, "little") + text, spans


def _download(
    url: str, size: int, head: bytes, spans: list[tuple[int, int]], partial: Path, label: str
) -> None:
    """Write `head` and the spans of the file at `url`, after what an earlier run wrote of them."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    total = sum(end - begin for begin, end in spans)
    partial.touch()
    with partial.open("r+b") as file:
        done = partial.stat().st_size - len(head)
        if file.read(len(head)) != head or done > total:
            file.seek(0)
            file.truncate()
            file.write(head)
            done = 0
        file.seek(0, os.SEEK_END)
        bar = {"desc": label, "unit": "B", "unit_scale": True, "disable": None}  # None: no terminal
        with tqdm(total=total, initial=done, **bar) as progress:
            for begin, end in spans:
                skipped = min(done, end - begin)
                done -= skipped
                for chunk, stated in _chunks(url, begin + skipped, end):
                    if stated != size:
                        raise Refused(f"a file of {size} bytes now has {stated}")
                    file.write(chunk)
                    progress.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())  # before it gets the name of a whole file


def _chunks(url: str, begin: int, end: int) -> Iterator[tuple[bytes, int]]:
    """The bytes from begin to end of a file in pieces, each with the size of the file.

    Where the connection is lost, the rest is asked for again.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, http_stream_backoff  # type: ignore[attr-defined]

    options: dict[str, Any] = {"timeout": constants.HF_HUB_DOWNLOAD_TIMEOUT}
    options["retry_on_exceptions"] = ()  # it cannot repeat what has been read in part
    failures = 0
    while begin < end:
        before, lost = begin, None
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        headers["Range"] = f"bytes={begin}-{end - 1}"
        try:
            with http_stream_backoff("GET", url, headers=headers, **options) as response:
                place = response.headers.get("Content-Range", "")
                stated = re.fullmatch(rf"bytes {begin}-\d+/(\d{{1,18}})", place)
                encoded = response.headers.get("Content-Encoding", "identity") != "identity"
                if response.status_code != 206 or not stated or encoded:
                    raise Refused(f"{response.status_code} {place}")
                for chunk in response.iter_raw():
                    begin += len(chunk)
                    if begin > end:
                        raise Refused("more bytes than asked for")
                    yield chunk, int(stated[1])
        except (OSError, Refused):  # OSError: an HTTP status
            raise
        except Exception as error:  # httpx's or httpx2's: a lost connection, a timeout
            lost = error
        failures = 0 if begin > before else failures + 1
        if failures > RETRIES:
            raise lost or Refused("only empty answers")
        if lost and begin < end:
            time.sleep(1)
