"""Files from strangers: each ends in one short line, soon, in little memory; or it is audio."""

import os
import random
import resource
import socket
import struct
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

import melfront
from melfront import AudioError
from melfront.__main__ import main
from tests.conftest import CHECKOUT
from tests.melfront.audio.files import by_av, encoded, noise

pytest.importorskip("av")  # the errors are those of an installation that has it

NOISE = noise(9_001, 2)
WAV = encoded(NOISE)
FLAT = np.full(9_001, 0.1)
NOT_AUDIO = "not an audio file that libsndfile"
OUT_OF_RANGE = r"sample 77 is 1e\+38, far outside \[-1, 1\]"


def patched(data, at, layout, *values):
    """The bytes with these values at `at`, a place or what stands before it."""
    start = at if isinstance(at, int) else data.index(at) + len(at)
    new = struct.pack(layout, *values)
    return data[:start] + new + data[start + len(new) :]


def with_sample(value, subtype="FLOAT"):
    clip = FLAT.copy()
    clip[77] = value
    return encoded(clip, 44_100, subtype=subtype)


def mp3_of(frames):
    """An mp3 of 2 KB whose header says how many frames it has."""
    mp3 = encoded(NOISE[:3_000], 44_100, "mp3", "MPEG_LAYER_III")
    mark = b"Xing" if b"Xing" in mp3 else b"Info"
    return patched(mp3, mp3.index(mark) + 8, ">I", frames)


FLAC, AIFF, CAF = (encoded(NOISE, 16_000, kind) for kind in ("flac", "aiff", "caf"))
# What a file is, its bytes, and the error, or None where it is audio after all.
FILES = {
    "empty": (b"", NOT_AUDIO),
    "text": (b"not audio\n" * 1_000, NOT_AUDIO),
    "control characters": (b"\x1b[31m\0" * 1_000, NOT_AUDIO),
    "zeros": (bytes(10_000), NOT_AUDIO),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(1_000), NOT_AUDIO),
    "an archive": (b"PK\3\4" + bytes(1_000), NOT_AUDIO),
    "ID3 tags only": (b"ID3\4\0\0\0\0\x10\0" + bytes(2_048), NOT_AUDIO),
    "a playlist": (b"#EXTM3U\n#EXTINF:9,\n/etc/passwd\n", NOT_AUDIO),
    "mp3 of 2 TiB": (mp3_of(0x1DFFFFFF), r"cut short: it has 3503 samples, 579820578697 fewer"),
    "mp3 of 2^32 frames": (mp3_of(0xFFFFFFFF), "cut short: it has 3503 samples"),
    "flac of 2^36 samples": (
        patched(FLAC, 21, ">BI", FLAC[21] | 15, 0xFFFFFFFF),
        "cut short: it has 9001 samples, 68719467734 fewer",
    ),
    "flac of a header": (FLAC[:60], NOT_AUDIO),
    "wav of 0 Hz": (patched(WAV, 24, "<I", 0), NOT_AUDIO),
    "wav of 1 Hz": (patched(WAV, 24, "<I", 1), r"a sampling rate of 1 Hz; expected 1,000 to"),
    "wav of 1e9 Hz": (patched(WAV, 24, "<I", 10**9), r"of 1,000,000,000 Hz; expected 1,000 to"),
    "wav of 2^32 Hz": (patched(WAV, 24, "<I", 2**32 - 1), NOT_AUDIO),
    "wav without channels": (patched(WAV, 22, "<H", 0), "Channel count is zero"),
    "wav of 1000 channels": (patched(WAV, 22, "<H", 1_000), None),
    "wav of 65535 channels": (patched(WAV, 22, "<H", 65_535), "Too many channels"),
    "wav of 0 bits": (patched(WAV, 34, "<H", 0), NOT_AUDIO),
    "wav of 77 bits": (patched(WAV, 34, "<H", 77), NOT_AUDIO),
    "wav of blocks of 0 bytes": (patched(WAV, 32, "<H", 0), None),
    "wav of another codec": (patched(WAV, 20, "<H", 0x1234), NOT_AUDIO),
    "wav of 1 GB": (patched(WAV, 40, "<I", 1 << 30), "cut short: it has 9001 samples"),
    "wav of an unknown size": (patched(WAV, 40, "<I", 0xFFFFFFF0), None),
    "aiff of 1e4932 Hz": (patched(AIFF, AIFF.index(b"COMM") + 16, ">H8s", 0x7FFF, b"\xff" * 8),
                          r"a sampling rate of [\d,]+ Hz; expected"),
    "caf of 1e300 Hz": (patched(CAF, b"desc\0\0\0\0\0\0\0 ", ">d", 1e300), NOT_AUDIO),
    "NaN": (with_sample(np.nan), "sample 77 is nan"),
    "infinity": (with_sample(-np.inf), "sample 77 is -inf"),
    "1e38": (with_sample(1e38), OUT_OF_RANGE),
    "1e300": (with_sample(1e300, "DOUBLE"), "sample 77 is inf"),
    "mp4 of a box of 4 GB": (struct.pack(">I4s", 2**32 - 16, b"ftyp") + b"isom" * 99, NOT_AUDIO),
    "webm of a header": (b"\x1a\x45\xdf\xa3\x01" + b"\xff" * 7, NOT_AUDIO),
}  # fmt: skip


def check_line(text):
    assert text.isprintable()
    assert len(text) <= 1_000


@pytest.mark.parametrize("kind", FILES)
def test_file(tmp_path, kind, capfd):
    data, message = FILES[kind]
    path = tmp_path / "clip.wav"
    path.write_bytes(data)
    given = (path, data)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for file in given:
            if message is None:
                assert np.isfinite(melfront.load_audio(file)).all()
                continue
            with pytest.raises(AudioError, match=message) as error:
                melfront.load_audio(file)
            check_line(str(error.value))
            with pytest.raises(AudioError, match=message):
                list(melfront.stream(file, n_mels=3))
        capfd.readouterr()
        out = tmp_path / "out.npy"
        assert main([str(path), "--n-mels", "3", "-o", str(out)]) == (0 if message is None else 2)
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB
    err = capfd.readouterr().err
    assert out.exists() == (message is None)
    assert err.count("\n") == (message is not None)
    check_line(err.rstrip("\n"))


def test_large_values_are_taken_or_refused_without_check_range():
    read = melfront.load_audio(with_sample(1e37), check_range=False)
    assert 1e36 < np.abs(read).max() < np.inf
    overflow = encoded(np.where(np.arange(9_001) // 40 % 2, 3e38, -3e38), 44_100, subtype="FLOAT")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AudioError, match="overflow when it is resampled"):
            melfront.load_audio(overflow, check_range=False)


# Paths


def paths(folder):
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
    (folder / "link").symlink_to(folder / "nowhere")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "file").write_bytes(b"")
    device = "a pipe, a socket or a device, not an audio file"
    yield folder / "fifo", device
    yield folder / "socket", device
    yield "/dev/zero", device
    yield folder, "a folder, not an audio file"
    for missing in ("link", "loop", "file/clip.wav", "a\0b.wav", "a\x1b[31m\n.wav", "x" * 5_000):
        yield f"{folder}/{missing}", "no such file"
    yield "~nobody/clip.wav", "no such file"
    yield "signal:../../x", "no such file"
    yield "", "'': no such file"


def test_paths(tmp_path, capsys):
    for path, message in paths(tmp_path):
        for read in (melfront.load_audio, lambda path: next(melfront.stream(path))):
            with pytest.raises((AudioError, FileNotFoundError), match=message) as error:
                read(path)
            check_line(str(error.value))
        if path:
            assert main([str(path)]) == 2
            err = capsys.readouterr().err
            assert err.count("\n") == 1
            check_line(err.rstrip("\n"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "NoneType: expected a path"),
        (0, "int: expected a path"),  # not standard input
        ([], "list: expected a path"),
        ({"path": 7}, "without bytes or a path"),
        ({1: 2, "a\n" * 9_000: 3}, "without bytes or a path"),
        ({"array": FLAT, "sampling_rate": np.nan}, r"sampling_rate nan; expected a number"),
        ({"array": FLAT, "sampling_rate": "fast"}, r"sampling_rate 'fast'; expected a number"),
        ({"array": FLAT, "sampling_rate": -1}, "a sampling rate of -1 Hz"),
        ({"array": FLAT, "sampling_rate": 10**30}, "a sampling rate of 1,000"),
        ({"array": FLAT * 1e300, "sampling_rate": 16_000}, "sample 0 is inf"),
        ({"array": ["a"], "sampling_rate": 16_000}, "dtype str"),
        ({"array": None, "sampling_rate": 16_000}, "shape"),
    ],
)
def test_other_objects(given, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AudioError, match=message) as error:
            melfront.load_audio(given)
    check_line(str(error.value))


def test_text_and_unseekable_files(tmp_path, capfd):
    path = tmp_path / "clip.wav"
    path.write_bytes(WAV)
    with path.open(encoding="latin-1") as text, pytest.raises(AudioError, match="opened with 'rb'"):
        melfront.load_audio(text)
    read_end, write_end = os.pipe()
    os.close(write_end)
    with open(read_end, "rb") as pipe, pytest.raises(AudioError, match="that can seek"):
        melfront.load_audio(pipe)
    assert capfd.readouterr().err == ""  # of a callback that soundfile cannot raise from


# Fuzz


def mutated(data, random):
    """Flipped bytes, another number in the header, a cut, a hole or a repeated piece."""
    data = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 3])):
        at = random.randrange(min(len(data), random.choice([64, 400, len(data)])))
        match random.randrange(5):
            case 0:
                data[at] ^= 1 << random.randrange(8)
            case 1:
                number = random.choice([0, 1, 255, 1_000, 65_535, 10**9, 2**31, 2**32 - 1])
                data[at : at + 4] = number.to_bytes(4, random.choice(["little", "big"]))
            case 2:
                del data[max(1, at) :]
            case 3:
                data[at : at + random.randrange(300)] = bytes(random.randrange(300))
            case 4:
                data[at:at] = data[at : at + random.randrange(200)]
    return bytes(data)


def whole_files():
    kinds = ["wav", "aiff", "au", "caf", "w64", "flac", "voc", "nist"]
    for kind in kinds:
        yield encoded(NOISE[:, 0], 22_050, kind)
    yield encoded(NOISE, 44_100, subtype="FLOAT")
    yield encoded(NOISE, 44_100, subtype="IMA_ADPCM")
    yield encoded(NOISE, 44_100, "mp3", "MPEG_LAYER_III")
    yield encoded(NOISE, 48_000, "ogg", "OPUS")
    yield encoded(NOISE, 44_100, "ogg", "VORBIS")
    pcm = np.round(32_000 * NOISE).astype(np.int16)
    for kind, codec in (("mp4", "aac"), ("webm", "libopus"), ("mov", "alac"), ("adts", "aac")):
        yield by_av(pcm, 48_000, codec, kind)
    yield by_av(pcm, 44_100, "aac", "mp4", {"movflags": "faststart"}, video=True)
    yield by_av(pcm[:, :1], 8_000, "libopencore_amrnb", "amr")


@pytest.mark.parametrize("n", [120, pytest.param(6_000, marks=pytest.mark.slow)])
def test_fuzz(n):
    """load_audio and stream agree, on the samples or on the error."""
    files = list(whole_files())
    good = 0
    for seed in range(n):
        data = mutated(files[seed % len(files)], random.Random(seed))
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            windows, fault = [], None
            try:
                windows += [window.audio for window in melfront.stream(data, 0.5, n_mels=3)]
            except AudioError as error:
                fault = str(error)
                check_line(fault)
            if fault is None:
                good += 1
                read = melfront.load_audio(data)
                assert np.array_equal(np.concatenate(windows), read), seed
                assert np.abs(read).max() <= 1, seed
            else:
                with pytest.raises(AudioError) as error:
                    melfront.load_audio(data)
                assert str(error.value) == fault, seed
        assert time.process_time() - start < 10, seed
    assert n / 10 < good < n * 9 / 10  # the mutations are neither harmless nor fatal


# Length


@pytest.mark.slow
def test_ten_hours_in_constant_memory(tmp_path):
    """The stream and the command: a peak under 400 MB for a file of 1.15 GB."""
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / "long.wav"
    hour = np.resize(np.round(30_000 * NOISE[:, 0]).astype(np.int16), 3_600 * 16_000)
    with soundfile.SoundFile(path, "w", 16_000, 1, "PCM_16") as file:
        for _ in range(10):
            file.write(hour)
    stream = f"n = sum(1 for _ in melfront.stream({str(path)!r}, n_mels=80)); assert n == 1200"
    command = f"assert not main([{str(path)!r}, '-o', {str(tmp_path / 'a.npz')!r}])"
    for code in (stream, command):
        code = (
            f"import resource, melfront; from melfront.__main__ import main; {code}; "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout.split()[-1]) < 400_000  # KB
