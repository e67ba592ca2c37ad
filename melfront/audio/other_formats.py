"""Read what libsndfile cannot - m4a, mp4, webm, amr ... - by FFmpeg, block by block.

By its libraries where PyAV is installed, else by the program `ffmpeg` where there is one. Both only
decode: channels are averaged and rates converted by the code that does so for every other file.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .waveform import NAMELESS, AudioError, mixed, printable, to_float

# What a file may be. FFmpeg knows formats that name other files or addresses to be read, such as a
# playlist, and others that anything at all could be.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,asf,avi,flv,mpegts,mpeg,aac,loas,amr,amrnb,amrwb,ac3,"
    "eac3,dts,wv,tta,ape,tak,rm"
)
# libsndfile's own, when it does not know what is in them: it finds more faults in one it knows.
OWN_FORMATS = ",wav,ogg,caf,au,aiff,w64"
# Their headers say how long the audio is, up to what an encoder adds at either end.
EXACT = ("mov,", "matroska,", "asf")
TOLERANCE = 0.5  # s
DURATION = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d*)?)$")
READ = 1 << 16  # bytes


def blocks(source: Any, name: str, own: bool) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The sampling rate and the mean of the channels (n,) of the file's first audio stream.

    source: a path, or an open binary file.
    own: the format is one of libsndfile's. Raises AudioError.
    """
    formats = FORMATS + OWN_FORMATS if own else FORMATS
    if find_spec("av"):
        return by_library(source, name, formats)
    if program := shutil.which("ffmpeg"):
        return by_program(program, source, name, formats)
    raise AudioError(
        f"{name}: not an audio file that libsndfile can read; convert it: {conversion(name)}. Or "
        "install PyAV, by which m4a, mp4, webm, amr ... are read: pip install av"
    )


def conversion(name: str) -> str:
    return f"ffmpeg -i {'IN' if name == NAMELESS else shlex.quote(name)} OUT.flac"


def not_audio(name: str, seconds: float, detail: str) -> AudioError:
    if seconds:
        return AudioError(
            f"{name} is damaged after {seconds:.2f} s ({printable(detail)}). Copy it again, or "
            f"keep what is there: {conversion(name)}"
        )
    return AudioError(
        f"{name}: not an audio file that libsndfile or FFmpeg can read ({printable(detail)}); "
        f"convert it: {conversion(name)}"
    )


def by_library(source: Any, name: str, formats: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """`blocks` by PyAV."""
    import av

    seconds = promised = 0.0
    options = {"format_whitelist": formats, "protocol_whitelist": "none"}
    try:
        # An open file, because FFmpeg takes a name for an address: "http:...", "concat:...".
        with opened(source) as file, av.open(file, container_options=options) as container:
            if not container.streams.audio:
                raise AudioError(f"{name}: no audio stream in it")
            stream = container.streams.audio[0]
            promised = promised_seconds(container, stream)
            for frame in container.decode(stream):
                if frame.sample_rate and frame.samples:
                    seconds += frame.samples / frame.sample_rate
                    yield frame.sample_rate, mono_of(frame, name)
    except AudioError:
        raise
    except (av.FFmpegError, OSError, ValueError, LookupError, RuntimeError) as error:
        raise not_audio(name, seconds, getattr(error, "strerror", None) or str(error)) from error
    if seconds < promised - TOLERANCE:
        raise AudioError(
            f"{name} is cut short: it has {seconds:.2f} s, its header says {promised:.2f}. Copy it "
            f"again, or keep what is there: {conversion(name)}"
        )


@contextmanager
def opened(source: Any) -> Iterator[Any]:
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            yield file
    else:
        source.seek(0)
        yield source


def promised_seconds(container: Any, stream: Any) -> float:
    """How long the header says that the audio is; 0 where it does not say, or only estimates."""
    if not container.format.name.startswith(EXACT):
        return 0.0
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if tag := DURATION.match(stream.metadata.get("DURATION", "")):  # of matroska
        hours, minutes, seconds = map(float, tag.groups())
        return 3600 * hours + 60 * minutes + seconds
    if container.duration is None or len(container.streams) > 1:
        return 0.0
    return float(container.duration) / 1e6  # microseconds


def mono_of(frame: Any, name: str) -> NDArray[np.float32]:
    """The mean of the channels of a frame, (n,)."""
    samples = frame.to_ndarray()  # (channels, n), or (1, n * channels)
    channels = frame.layout.nb_channels
    if frame.format.is_planar:
        samples = np.ascontiguousarray(samples.T)  # (n, channels)
    return mixed(to_float(samples.reshape(-1, channels), name))


def by_program(
    program: str, source: Any, name: str, formats: str
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """`blocks` by the program ffmpeg."""
    seconds = 0.0
    with as_path(source) as path, tempfile.TemporaryFile() as messages:
        command = [program, "-nostdin", "-v", "error", "-xerror", "-err_detect", "explode"]
        command += ["-format_whitelist", formats, "-protocol_whitelist", "file"]
        command += ["-i", f"file:{path}", "-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "-"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages) as process:
            try:
                for rate, block in samples_of_au(process.stdout):
                    seconds += len(block) / rate
                    yield rate, block
                status = process.wait()
            finally:
                process.kill()  # if the caller does not want the rest
        messages.seek(0)
        said = messages.read(READ).decode(errors="replace").strip()
    if "matches no streams" in said:
        raise AudioError(f"{name}: no audio stream in it")
    if status or said:
        raise not_audio(name, seconds, said.rpartition("\n")[2] or f"status {status}")


@contextmanager
def as_path(source: Any) -> Iterator[str]:
    """A path for the program, which has to seek in what it reads."""
    if isinstance(source, (str, os.PathLike)):
        yield os.fspath(source)
    else:
        source.seek(0)
        with tempfile.NamedTemporaryFile() as file:
            shutil.copyfileobj(source, file)
            file.flush()
            yield file.name


def samples_of_au(file: Any) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The rate and the mean of the channels (n,) of an .au file of float32 that is being written.

    It has the simplest header of all: its own length, the rate and the number of channels.
    """
    head = file.read(24)
    if len(head) < 24:  # ffmpeg says why
        return
    _, start, _, _, rate, channels = struct.unpack(">4s5I", head)
    file.read(start - len(head))
    row = 4 * channels
    while data := file.read(max(1, READ // row) * row):
        samples = np.frombuffer(data[: len(data) // row * row], ">f4")
        yield rate, mixed(samples.reshape(-1, channels))
