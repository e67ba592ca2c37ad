"""`melfront.stream`: the windows of a file are those of the whole clip, in constant memory."""

import io

import numpy as np
import pytest

import melfront
from melfront import AudioError
from tests.melfront.audio.files import assert_same_windows, encoded, noise
from tests.signals import SAMPLE

soundfile = pytest.importorskip("soundfile")

FORMATS = {
    "wav": "PCM_16 PCM_U8 PCM_24 PCM_32 FLOAT DOUBLE ULAW ALAW IMA_ADPCM MS_ADPCM GSM610",
    "flac": "PCM_16 PCM_24",
    "ogg": "VORBIS OPUS",
    "mp3": "MPEG_LAYER_III",
    "aiff": "PCM_16 FLOAT",
    "au": "PCM_16",
    "caf": "ALAC_16",
    "w64": "PCM_16",
    "rf64": "PCM_16",
}


@pytest.mark.parametrize(
    ("kind", "subtype"), [(kind, s) for kind, names in FORMATS.items() for s in names.split()]
)
def test_every_container(kind, subtype):
    rate = 48_000 if subtype == "OPUS" else 44_100
    channels = 1 if subtype == "GSM610" else 2
    file = encoded(noise(101_009, channels), rate, kind, subtype)
    assert_same_windows(file, 0.37, n_mels=7)
    # What soundfile reads in one go.
    whole, _ = soundfile.read(io.BytesIO(file), dtype="float32", always_2d=True)
    whole = melfront.audio.resample(whole.mean(axis=1), rate)
    assert np.array_equal(melfront.load_audio(file), whole.clip(-1, 1))


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 8, 17])
@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 16_001, 22_050, 48_000, 96_000, 192_000])
def test_every_rate_and_number_of_channels(rate, channels):
    file = encoded(noise(rate + 10_007, channels), rate)
    assert_same_windows(file, 0.41, n_mels=5)


# Faults: the same error as of load_audio, after the windows that are complete before it


def fault_of(file, chunk_length, **options):
    """The windows before the error, and the error."""
    windows = []
    with pytest.raises(AudioError) as stream_error:  # noqa: PT012  # the loop raises
        for window in melfront.stream(file, chunk_length, n_mels=3, **options):
            windows.append(window.audio)
    with pytest.raises(AudioError) as error:
        melfront.load_audio(file, **options)
    assert str(stream_error.value) == str(error.value)
    return windows, str(error.value)


def test_cut_short():
    clip = noise(100_003, 1)
    windows, message = fault_of(encoded(clip, 16_000)[: 44 + 2 * 77_777], 0.5)
    assert message.startswith("the data given is cut short: it has 77777 samples, 22226 fewer")
    assert np.array_equal(
        np.concatenate(windows), melfront.load_audio(encoded(clip[:72_000], 16_000))
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -11.5])
def test_bad_sample(value):
    clip = noise(100_003, 2)
    clip[70_000, 1] = 2 * value
    windows, message = fault_of(encoded(clip, 16_000, subtype="FLOAT"), 0.5)
    assert [len(window) for window in windows] == [8_000] * 8
    assert f"sample 70000 is {value:.3g}"[:20] in message


def test_damaged_flac():
    flac = bytearray(encoded(noise(200_003, 1), 16_000, "flac"))
    flac[len(flac) // 2 :] = bytes(len(flac) - len(flac) // 2)
    windows, _ = fault_of(bytes(flac), 0.5)
    assert windows


@pytest.mark.parametrize(
    ("chunk_length", "error"), [(0, "positive"), (np.nan, "positive"), (0.01, "too few to mirror")]
)
def test_chunk_length(chunk_length, error):
    with pytest.raises(AudioError, match=error):
        next(melfront.stream("sample", chunk_length))


# What is accepted is what load_audio accepts


def test_rows_names_and_open_files(tmp_path):
    clip = melfront.load_audio("sample")
    assert_same_windows("sample", 3.1, convention="openai", n_mels=80)
    with SAMPLE.open("rb") as file:
        windows = [window.audio for window in melfront.stream(file, 3.1)]
    assert np.array_equal(np.concatenate(windows), clip)
    assert_same_windows({"bytes": SAMPLE.read_bytes(), "path": None}, 3.1)
    assert_same_windows({"array": clip, "sampling_rate": 22_050}, 3.1)
    loud = {"array": 20 * clip, "sampling_rate": 16_000}
    with pytest.raises(AudioError, match="far outside"):
        next(melfront.stream(loud))
    (window,) = melfront.stream(loud, check_range=False)
    assert np.array_equal(window.audio, 20 * clip)


def test_windows_do_not_share_memory():
    windows = list(melfront.stream("sample", 1.0))
    kept = [[array.copy() for array in window] for window in windows]
    windows[0].audio[:] = 0
    windows[0].log_mel[:] = 0
    for window, copy in zip(windows[1:], kept[1:], strict=True):
        assert all(map(np.array_equal, window, copy))
