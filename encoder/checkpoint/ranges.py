"""Reads ranges of bytes of a file on the Hub.

`huggingface_hub`'s session makes every request: token, proxy, redirects, offline mode, timeouts and
waiting after a 503 are as in its own downloads. Its `HfFileSystem` reads ranges too, but takes
whatever a server answers: where one ignores `Range`, that is the beginning of the file.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONNECT = 2.0  # seconds, so that the user is told within 3
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

    # (mypy: huggingface_hub.utils makes its __all__ when it is imported.)
    from huggingface_hub.utils import build_hf_headers, http_backoff  # type: ignore[attr-defined]

    url = hf_hub_url(repository, "config.json", revision=revision)
    connected = threading.Event()
    answers: list[Any] = []

    def trace(event: str, _: Any) -> None:  # "connection.connect_tcp.started", ...
        if event.startswith("http"):  # "http11.send_request_headers.started"
            connected.set()

    def ask() -> None:
        options: dict[str, Any] = {"timeout": constants.HF_HUB_ETAG_TIMEOUT}
        options["retry_on_exceptions"] = ()
        traced: dict[str, Any] = {"retry_on_status_codes": (), "extensions": {"trace": trace}}
        try:
            # Without the headers: to build them, huggingface_hub may ask the Hub something itself.
            http_backoff("HEAD", url, **options, **traced)
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
    commit = str(answer.headers.get(constants.HUGGINGFACE_HEADER_X_REPO_COMMIT))
    return commit if re.fullmatch("[0-9a-f]{40}", commit) else None  # it will name a folder


def download(
    url: str, size: int, head: bytes, spans: list[tuple[int, int]], partial: Path, label: str
) -> None:
    """Write `head` and the spans of the file at `url`, after what an earlier run wrote of them."""
    # (mypy: huggingface_hub.utils makes its __all__ when it is imported.)
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
                for chunk, stated in read(url, begin + skipped, end):
                    if stated != size:
                        raise Refused(f"a file of {size} bytes now has {stated}")
                    file.write(chunk)
                    progress.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())  # before it gets the name of a whole file


def read(url: str, begin: int, end: int) -> Iterator[tuple[bytes, int]]:
    """The bytes from begin to end of a file in pieces, each with the size of the file.

    Where the connection is lost, the rest is asked for again.
    """
    from huggingface_hub import constants

    # (mypy: huggingface_hub.utils makes its __all__ when it is imported.)
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
                stated = re.fullmatch(rf"bytes {begin}-\d+/(\d+)", place)
                encoded = response.headers.get("Content-Encoding", "identity") != "identity"
                if not stated or encoded:  # as in every answer whose status is not 206
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
