"""Audio files: formats, channels, sampling rates, and files that are not audio."""

import io
from pathlib import Path

import numpy as np
import pytest

import melfront
from melfront import AudioError
from tests.signals import SAMPLE, Signal

soundfile = pytest.importorskip("soundfile")

CLIP = Signal("speech", 9_001, seed=3)


def write(path: Path, samples: np.ndarray, rate: int = 16_000, **options) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def tone(hz: float, rate: int, seconds: float = 2.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)


def test_the_sample_clip(sample):
    assert sample.shape == (129_600,)
    assert sample.dtype == np.float32
    assert 0.3 < np.abs(sample).max() < 1
    for edge in (sample[:400], sample[-400:]):  # cut inside a vowel
        assert np.sqrt(np.mean(edge**2)) > 0.05


@pytest.mark.parametrize("name", ["clip.wav", "clip.flac", "clip.ogg", "clip.mp3", "clip.aiff"])
def test_formats(tmp_path, name):
    clip = CLIP.array()
    read = melfront.load_audio(write(tmp_path / name, clip))
    assert read.dtype == np.float32
    assert read.ndim == 1
    lossy = name.endswith(("ogg", "mp3"))
    if lossy:  # mp3 also pads, so compare only the loudness
        assert len(read) == pytest.approx(len(clip), abs=2_400)
        assert np.sqrt(np.mean(read**2)) == pytest.approx(np.sqrt(np.mean(clip**2)), rel=0.1)
    else:
        assert np.abs(read - clip).max() <= 2**-16 + 1e-7  # half a step of 16 bits


@pytest.mark.parametrize(
    ("subtype", "step"),
    [("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23), ("PCM_32", 2**-23), ("FLOAT", 0)],
)
def test_sample_formats(tmp_path, subtype, step):
    clip = CLIP.array()
    read = melfront.load_audio(write(tmp_path / "clip.wav", clip, subtype=subtype))
    assert np.abs(read - clip).max() <= step


def test_path_bytes_or_file():
    from_path = melfront.load_audio(SAMPLE)
    data = SAMPLE.read_bytes()
    assert np.array_equal(melfront.load_audio(str(SAMPLE)), from_path)
    assert np.array_equal(melfront.load_audio(data), from_path)
    assert np.array_equal(melfront.load_audio(io.BytesIO(data)), from_path)
    with SAMPLE.open("rb") as file:
        assert np.array_equal(melfront.load_audio(file), from_path)


def test_channels_are_averaged(tmp_path):
    left, right = CLIP.array(), Signal("speech", 9_001, seed=5).array()
    path = write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), subtype="FLOAT")
    assert np.allclose(melfront.load_audio(path), (left + right) / 2, rtol=0, atol=1e-7)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_preserves_a_tone(tmp_path, rate):
    read = melfront.load_audio(write(tmp_path / "tone.wav", tone(440, rate), rate, subtype="FLOAT"))
    assert len(read) == 32_000
    inside = slice(2_000, -2_000)  # the edges ring
    assert np.abs(read - tone(440, 16_000))[inside].max() <= 1e-4  # frequency, level and phase


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_resampling_does_not_alias(tmp_path, rate):
    """16 kHz audio cannot represent a 10 kHz tone; dropping samples would alias it to 6 kHz."""
    path = write(tmp_path / "tone.wav", tone(10_000, rate), rate, subtype="FLOAT")
    assert np.abs(melfront.load_audio(path))[2_000:-2_000].max() <= 1e-4


def test_overshoot_is_clipped(tmp_path):
    square = np.sign(tone(440, 44_100))
    read = melfront.load_audio(write(tmp_path / "square.wav", square, 44_100))
    assert np.abs(read).max() == 1


def test_the_same_recording_in_two_files(jfk_path, jfk_stereo_path):
    mono, stereo = melfront.load_audio(jfk_path), melfront.load_audio(jfk_stereo_path)
    assert mono.shape == (176_000,)
    assert len(stereo) == pytest.approx(176_000, abs=2)
    n = min(len(mono), len(stereo))
    # One file was made from the other with a different resampler and rounded to 16 bits.
    assert np.corrcoef(mono[:n], stereo[:n])[0, 1] > 0.999
    mels = [melfront.log_mel(x, n_mels=80) for x in (mono, stereo)]
    assert np.abs(mels[0] - mels[1])[:, :1_100].mean() < 0.05


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.wav: no such file"):
        melfront.load_audio(tmp_path / "none.wav")


def test_unreadable_file(tmp_path, monkeypatch):
    file = tmp_path / "locked.wav"
    file.write_bytes(b"RIFF")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root can read any file
    with pytest.raises(PermissionError, match=r"locked\.wav: no permission to read it"):
        melfront.load_audio(file)


@pytest.mark.parametrize("data", [b"", b"not audio at all", b"RIFF\0\0\0\0WAVE"])
def test_not_audio(tmp_path, data):
    path = tmp_path / "notes.txt"
    path.write_bytes(data)
    with pytest.raises(AudioError, match=r"notes\.txt: no.*audio file.*convert it"):
        melfront.load_audio(path)
    with pytest.raises(AudioError, match=r"the data given: no.*audio file"):
        melfront.load_audio(data)
    with pytest.raises(AudioError):
        melfront.load_audio(io.BytesIO(data))


def test_folder_is_not_audio(tmp_path):
    with pytest.raises(AudioError, match=r"no.* audio file"):
        melfront.load_audio(tmp_path)


def test_empty_file(tmp_path):
    with pytest.raises(AudioError, match=r"empty\.wav: no samples"):
        melfront.load_audio(write(tmp_path / "empty.wav", np.zeros(0)))


def test_file_with_nan(tmp_path):
    clip = CLIP.array()
    clip[77] = np.nan
    path = write(tmp_path / "bad.wav", clip, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"bad\.wav: sample 77 is nan"):
        melfront.load_audio(path)


def test_clip_shorter_than_one_sample_at_16_khz(tmp_path):
    path = write(tmp_path / "tiny.wav", np.ones(1), 192_000)
    with pytest.raises(AudioError, match="1 samples at 192000 Hz"):
        melfront.load_audio(path)
