"""Read what libsndfile can, block by block, down to one channel."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from . import other_formats
from .waveform import AudioError, mixed, printable

# What libsndfile notes about a file that ends before its header says. A program that writes into a
# pipe cannot go back to the header, and writes a size from UNKNOWN_SIZE on: 0xFFFFFFFF, 0x7FFFF000.
CUT_SHORT = re.compile(
    r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", re.MULTILINE
)
UNKNOWN_SIZE = 0x7FFFF000
UNKNOWN_FRAMES = 1 << 40  # two years at 16 kHz: libsndfile's way to say that there is no number
UNKNOWN_FORMAT, UNKNOWN_ENCODING = 1, 4  # SF_ERR_UNRECOGNISED_FORMAT, _UNSUPPORTED_ENCODING
BLOCK = 1 << 18  # values in a block, of all channels


class Sequential(soundfile.SoundFile):
    """A file that is read once, from its start to its end.

    soundfile seeks after each read. That restarts the decoders of mp3 and Opus, whose samples
    depend on those before, and blocks would differ from the file read as a whole.
    """

    def seekable(self) -> bool:
        return False


def blocks(source: Any, name: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The sampling rate and the mean of the channels (n,), at most one second at a time.

    source: a path, or an open binary file. Raises AudioError, where the samples are cut short after
    those that are there.
    """
    n = 0
    try:
        for rate, block in mono(source, name):
            n += len(block)
            yield rate, block
        if not n:
            with other_formats.opened(source) as file:
                if piped := without_length(file):
                    yield from mono(piped, name)
    except soundfile.LibsndfileError as error:
        if n:
            raise AudioError(
                f"{name} is damaged after {n} samples ({printable(error.error_string)}). Copy it "
                "again, or keep what is there: ffmpeg -i IN OUT.wav"
            ) from error
        if error.code not in (UNKNOWN_FORMAT, UNKNOWN_ENCODING):
            raise AudioError(
                f"{name}: not an audio file that libsndfile can read "
                f"({printable(error.error_string)}); convert it to wav or flac"
            ) from error
        own = error.code == UNKNOWN_ENCODING
        yield from other_formats.blocks(source, name, own)


def mono(source: Any, name: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """`blocks` of a file whose header is taken as it is."""
    n = 0
    with Sequential(source) as sound:
        promised, rate, notes = sound.frames, sound.samplerate, sound.extra_info
        n_frames = max(1, min(rate, BLOCK // sound.channels))
        buffer = np.empty((n_frames, sound.channels), np.float32)
        while len(block := sound.read(out=buffer)):
            n += len(block)
            yield rate, mixed(block)  # (n, channels) -> (n,)
    missing = max(0, promised - n) if promised < UNKNOWN_FRAMES else 0
    if n and (cut := CUT_SHORT.search(notes)) and int(cut[1]) < UNKNOWN_SIZE:
        size, there = int(cut[1]), int(cut[2])
        missing = math.ceil((size - there) / (round(there / n) or there / n))
    if missing:
        raise AudioError(
            f"{name} is cut short: it has {n} samples, {missing} fewer than its header says. Copy "
            "it again, or keep what is there: ffmpeg -i IN OUT.wav"
        )


class Patched(io.RawIOBase):
    """An open file, read with other bytes at one place."""

    def __init__(self, file: BinaryIO, at: int, patch: bytes) -> None:
        self.file, self.at, self.patch = file, at, patch

    def readinto(self, buffer: Any) -> int:
        start = self.file.tell()
        data = bytearray(self.file.read(len(buffer)))
        for i, byte in enumerate(self.patch, self.at - start):
            if 0 <= i < len(data):
                data[i] = byte
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


def without_length(file: BinaryIO) -> Patched | None:
    """A wav whose header says 0 bytes though samples follow, with "unknown" instead; else None.

    A program that was stopped before it went back to the header leaves such a file.
    """
    header = file.read(1 << 16)
    at = header.find(b"data" + bytes(4))
    end = file.seek(0, os.SEEK_END)
    if not header.startswith(b"RIFF") or at < 0 or end == at + 8 or is_chunks(file, at + 8, end):
        return None
    file.seek(0)
    return Patched(file, at + 4, b"\xff" * 4)


def is_chunks(file: BinaryIO, at: int, end: int) -> bool:
    """Is the rest of a RIFF file chunks: a printable name, a size, as many bytes, padded to 2?"""
    while at + 8 <= end:
        file.seek(at)
        head = file.read(8)
        if not all(32 <= c < 127 for c in head[:4]):  # such as "LIST"
            break
        size = int.from_bytes(head[4:], "little")
        at += 8 + size + size % 2
    return at in (end, end + 1)
