"""Audio files whose header gives the wrong length: truncated, or written to a pipe."""

import io
import struct

import numpy as np
import pytest

import melfront
from melfront import AudioError

CLIP = np.round(np.sin(np.arange(50_000) / 20) * 9_000).astype(np.int16)
WHOLE = CLIP.astype(np.float32) / 2**15


def file_of(kind="WAV", samples=CLIP, rate=16_000, **options):
    soundfile = pytest.importorskip("soundfile")
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, **options)
    return file.getvalue()


def with_size(wav, data, riff=None):
    """The wav with its header changed to `data` bytes of samples, and `riff` bytes in all."""
    assert wav[36:40] == b"data"
    riff = wav[4:8] if riff is None else struct.pack("<I", riff)
    return wav[:4] + riff + wav[8:40] + struct.pack("<I", data) + wav[44:]


@pytest.mark.parametrize("missing", [1, 25_000, 49_000])
@pytest.mark.parametrize(
    ("kind", "subtype", "width"),
    [("WAV", "PCM_16", 2), ("WAV", "PCM_24", 3), ("WAV", "FLOAT", 4), ("WAV", "ULAW", 1),
     ("RF64", "PCM_16", 2), ("W64", "PCM_16", 2), ("AIFF", "PCM_16", 2), ("AU", "PCM_16", 2)],
)  # fmt: skip
def test_cut_short(tmp_path, kind, subtype, width, missing):
    whole = file_of(kind, subtype=subtype)
    path = tmp_path / "clip.wav"
    end = whole.rindex(b"PEAK") if b"PEAK" in whole[1_000:] else len(whole)
    path.write_bytes(whole[: end - missing * width])
    there = len(CLIP) - missing
    message = rf"clip\.wav is cut short: it has {there} samples, {missing} fewer than its header"
    with pytest.raises(AudioError, match=message):  # the floats are not in [-1, 1]
        melfront.load_audio(path, check_range=False)
    with pytest.raises(AudioError, match=r"^the data given is cut short"):
        melfront.load_audio(path.read_bytes(), check_range=False)


def test_stereo_cut_inside_a_sample():
    wav = file_of(samples=np.stack([CLIP, CLIP], 1))
    with pytest.raises(AudioError, match="it has 39999 samples, 10001 fewer"):
        melfront.load_audio(wav[: -4 * 10_000 - 3])


def test_cut_short_mp3_and_flac():
    mp3, flac = file_of("MP3"), file_of("FLAC")
    with pytest.raises(AudioError, match="is cut short: it has"):
        melfront.load_audio(mp3[: len(mp3) // 2])
    with pytest.raises(AudioError, match="not an audio file"):
        melfront.load_audio(flac[: len(flac) // 2])


def test_flac_from_a_pipe_is_read():
    flac = bytearray(file_of("FLAC"))
    flac[21] &= 0xF0  # the 36 bits with the number of samples
    flac[22:26] = bytes(4)
    assert np.array_equal(melfront.load_audio(bytes(flac)), WHOLE)
    with pytest.raises(AudioError, match="decoder lost sync"):
        melfront.load_audio(bytes(flac[:-10]))


@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF, None])
@pytest.mark.parametrize("data", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF - 36])
def test_wav_from_a_pipe_is_read(tmp_path, data, riff):
    path = tmp_path / "clip.wav"
    path.write_bytes(with_size(file_of(), data, riff))
    assert np.array_equal(melfront.load_audio(path), WHOLE)
    assert np.array_equal(melfront.load_audio(path.read_bytes()), WHOLE)
    with path.open("rb") as file:
        assert np.array_equal(melfront.load_audio(file), WHOLE)


def test_wav_from_a_pipe_with_another_chunk_first():
    wav = with_size(file_of(), 0)
    note = b"LIST" + struct.pack("<I", 5) + b"INFOx\0"  # odd length, hence padded
    assert np.array_equal(melfront.load_audio(wav[:36] + note + wav[36:]), WHOLE)


def test_silence_from_a_pipe_is_not_parsed_as_a_header():
    assert len(melfront.load_audio(with_size(file_of(samples=0 * CLIP), 0))) == len(CLIP)


def test_wav_without_samples():
    empty = file_of(samples=CLIP[:0])
    note = b"LIST" + struct.pack("<I", 4) + b"INFO"
    for wav in (empty, empty + note, empty + note + note, with_size(file_of(), 100_000)[:44]):
        with pytest.raises(AudioError, match="no samples"):
            melfront.load_audio(wav)


def test_data_after_the_samples_is_ignored():
    """All samples are read if the header's total size is wrong or other bytes follow."""
    wav = file_of()
    for other in (with_size(wav, 100_000, 7), with_size(wav, 100_000, 0), wav + b"tail of rubbish"):
        assert np.array_equal(melfront.load_audio(other), WHOLE)
