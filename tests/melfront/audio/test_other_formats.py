"""Files that libsndfile does not read, through PyAV or the program ffmpeg."""

import io
import os
import re
import shutil

import numpy as np
import pytest

import melfront
from melfront import AudioError
from melfront.audio import other_formats
from tests.melfront.audio.files import assert_same_windows, by_av, encoded, noise
from tests.signals import sample

av = pytest.importorskip("av")
soxr = pytest.importorskip("soxr")


def speech(rate):
    """(N, 2) int16 of 1.3 s, each channel another voice."""
    both = np.stack([sample()[:20_011], sample()[60_000:80_011]], axis=1)
    return np.round(30_000 * soxr.resample(both, 16_000, rate)).astype(np.int16)


CLIP = speech(44_100)
KINDS = [
    # container, codec, rate, options
    ("mp4", "aac", 44_100, {}),
    ("mp4", "aac", 44_100, {"movflags": "faststart"}),
    ("mp4", "aac", 48_000, {"movflags": "frag_keyframe+empty_moov"}),
    ("mov", "pcm_s16le", 44_100, {}),
    ("mp4", "alac", 44_100, {}),
    ("webm", "libopus", 48_000, {}),
    ("matroska", "flac", 44_100, {}),
    ("amr", "libopencore_amrnb", 8_000, {}),
    ("3gp", "libopencore_amrnb", 8_000, {}),
    ("adts", "aac", 44_100, {}),
    ("asf", "wmav2", 44_100, {}),
    ("avi", "mp3", 44_100, {}),
    ("flv", "aac", 44_100, {}),
    ("mpegts", "aac", 48_000, {}),
    ("ac3", "ac3", 48_000, {}),
    ("wv", "wavpack", 44_100, {}),
    ("ogg", "libopus", 48_000, {}),  # libsndfile's own
]
LOSSLESS = ("pcm_s16le", "alac", "flac")


def clip_for(codec, rate):
    try:
        av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this PyAV has no encoder {codec}")
    return speech(rate)[:, : 1 if "amr" in codec else 2]


@pytest.mark.parametrize(("kind", "codec", "rate", "options"), KINDS)
def test_formats(kind, codec, rate, options):
    clip = clip_for(codec, rate)
    file = by_av(clip, rate, codec, kind, options)
    assert_same_windows(file, 0.37, n_mels=3)
    read = melfront.load_audio(file)
    wav = melfront.load_audio(encoded(clip, rate))
    if codec in LOSSLESS:
        assert np.array_equal(read, wav)
        return
    # An encoder adds or drops up to two frames of 1024 to 2048 samples, and is not exact.
    assert abs(len(read) - len(wav)) <= 2 * 2_048 * 16_000 / rate
    lags = [np.corrcoef(read[lag : lag + 17_000], wav[1_000:18_000])[0, 1] for lag in range(1_900)]
    assert max(lags) > 0.8


def test_path_and_open_file(tmp_path):
    file = by_av(CLIP, 44_100, "aac", "mp4")
    path = tmp_path / "http:,concat: %d 'x'.m4a"  # means something to FFmpeg
    path.write_bytes(file)
    whole = melfront.load_audio(file)
    assert np.array_equal(melfront.load_audio(path), whole)
    with path.open("rb") as opened:
        assert np.array_equal(melfront.load_audio(opened), whole)


def test_first_audio_stream_of_several_with_video():
    file = by_av(CLIP, 44_100, "aac", "mp4", streams=2, video=True)
    alone = by_av(CLIP, 44_100, "aac", "mp4")
    n = len(CLIP) * 16_000 // 44_100
    assert np.array_equal(melfront.load_audio(file)[:n], melfront.load_audio(alone)[:n])


def test_no_audio_stream():
    file = by_av(None, 0, "", "mp4", streams=0, video=True)
    with pytest.raises(AudioError, match=r"^the data given: no audio stream in it$"):
        melfront.load_audio(file)


def test_rate_and_channels_that_change():
    parts = [
        (CLIP, 48_000),
        (CLIP[:, :1], 48_000),
        (CLIP[:, :1], 24_000),
        (CLIP[::-1, :1], 16_000),
    ]
    files = [by_av(clip, rate, "aac", "adts") for clip, rate in parts]
    joined = b"".join(files)
    assert_same_windows(joined, 0.7, n_mels=3)
    seconds = [len(melfront.load_audio(file)) / 16_000 for file in files]
    # A decoder starts in the middle of the joined file, so its first frames are other ones.
    assert len(melfront.load_audio(joined)) / 16_000 == pytest.approx(sum(seconds), abs=0.3)


@pytest.mark.parametrize(
    ("kind", "codec", "options", "video"),
    [
        ("mp4", "aac", {}, False),
        ("mp4", "aac", {"movflags": "faststart"}, False),
        ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}, False),
        ("webm", "libopus", {}, False),
        ("matroska", "aac", {}, True),
        ("adts", "aac", {}, False),
    ],
)
def test_cut_short(kind, codec, options, video):
    clip = np.concatenate([CLIP, CLIP])
    file = by_av(clip, 48_000, codec, kind, options, video=video)
    with pytest.raises(AudioError, match=r"cut short|damaged|not an audio file") as error:
        melfront.load_audio(file[: len(file) // 2])
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n"]
)
def test_a_playlist_is_not_followed(tmp_path, text):
    clip = tmp_path / "clip.ts"
    clip.write_bytes(by_av(CLIP, 48_000, "aac", "mpegts"))
    playlist = tmp_path / "list"
    playlist.write_text(text.format(clip))
    with pytest.raises(AudioError, match="not an audio file"):
        melfront.load_audio(playlist)


def test_a_flac_that_is_cut_short_is_left_to_libsndfile():
    flac = encoded(CLIP, 44_100, "flac")
    with pytest.raises(AudioError, match=r"not an audio file|damaged"):
        melfront.load_audio(flac[: len(flac) // 2])


# Without PyAV


@pytest.fixture
def without_av(monkeypatch):
    monkeypatch.setattr(other_formats, "find_spec", lambda name: None)


@pytest.fixture
def m4a(tmp_path):
    path = tmp_path / "a talk.m4a"
    path.write_bytes(by_av(CLIP, 44_100, "aac", "mp4"))
    return path


def test_neither(m4a, without_av, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(AudioError) as error:
        melfront.load_audio(m4a)
    assert f"a talk.m4a: not an audio file that libsndfile can read; convert it: ffmpeg -i '{m4a}'"\
        " OUT.flac. Or install PyAV" in str(error.value)  # fmt: skip
    assert "\n" not in str(error.value)


def program(folder, monkeypatch, script):
    """A stand-in for ffmpeg: what it is called with is in the file `called`."""
    file = folder / "ffmpeg"
    file.write_text(f'#!/bin/sh\necho "$@" > {folder}/called\n{script}\n')
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_what_a_program_writes_is_read(tmp_path, m4a, without_av, monkeypatch, channels):
    clip = noise(60_001, channels).astype(np.float32)
    au = bytearray(encoded(clip, 22_050, "au", "FLOAT"))
    au[8:12] = b"\xff" * 4  # a length that is not known yet
    (tmp_path / "out.au").write_bytes(au)
    program(tmp_path, monkeypatch, f"cat {tmp_path}/out.au")
    expected = melfront.audio.resample(clip.mean(axis=1), 22_050).clip(-1, 1)
    for given in (m4a, m4a.read_bytes(), io.BytesIO(m4a.read_bytes())):
        assert np.array_equal(melfront.load_audio(given), expected)
    assert_same_windows(m4a, 0.7, n_mels=3)
    called = (tmp_path / "called").read_text()
    assert f" -i file:{m4a} -map 0:a:0 " in called
    next(melfront.stream(m4a, 0.1))  # and stops


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'a.m4a: No way' >&2; exit 1", r"not an audio file that .*\(a\.m4a: No way\)"),
        ("exit 3", r"\(status 3\)"),
        ("echo 'Stream map 0:a:0 matches no streams.' >&2; exit 1", "no audio stream in it"),
        ("head -c 90000 {}/out.au; echo 'partial file' >&2", r"is damaged after 0\.\d\d s"),
    ],
)
def test_what_a_program_says_is_an_error(tmp_path, m4a, without_av, monkeypatch, script, message):
    (tmp_path / "out.au").write_bytes(encoded(noise(60_001, 1), 44_100, "au", "FLOAT"))
    program(tmp_path, monkeypatch, script.format(tmp_path))
    with pytest.raises(AudioError, match=message):
        melfront.load_audio(m4a)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="there is no program ffmpeg here")
@pytest.mark.parametrize(("kind", "codec", "rate", "options"), KINDS[:-1])
def test_program_and_library_agree(without_av, monkeypatch, kind, codec, rate, options):
    file = by_av(clip_for(codec, rate), rate, codec, kind, options)

    def decoded():
        blocks = list(other_formats.blocks(io.BytesIO(file), "clip", own=False))
        assert {block_rate for block_rate, _ in blocks} == {rate}
        return np.concatenate([block for _, block in blocks])

    by_program = decoded()
    monkeypatch.undo()
    by_library = decoded()
    n = min(len(by_program), len(by_library))  # they may trim what the encoder added
    assert max(len(by_program), len(by_library)) - n < 1_024
    assert np.array_equal(by_program[:n], by_library[:n])


def test_what_other_libraries_read_is_named():
    """The formats that a file may have are FFmpeg's names."""
    known = {name for names in av.formats_available for name in names.split(",")}
    given = re.split(",", other_formats.FORMATS + other_formats.OWN_FORMATS)
    assert set(given) - known <= {"amrnb", "amrwb"}  # of a build without those
