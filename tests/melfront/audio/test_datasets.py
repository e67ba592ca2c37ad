"""Data sets made on the spot: rows in `load_audio`, then `map`, streaming, DataLoader and Ray."""

import io

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import melfront
from melfront import AudioError, log_mel
from tests.melfront.audio.test_clips import Decoder
from tests.signals import Signal

datasets = pytest.importorskip("datasets")
soundfile = pytest.importorskip("soundfile")

RATE = 44_100
STEREO = np.stack([Signal("speech", 20_011, seed=s).array() for s in (1, 2)], axis=1)
MONO = STEREO.mean(axis=1)
# Both read the same samples; the results differ by the rounding of a float32.
ROUNDING = 1e-6


def wav(samples: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="wav", subtype="FLOAT")
    return file.getvalue()


def test_load_audio_takes_a_row(tmp_path):
    """Of any sampling rate, decoded or not."""
    (tmp_path / "clip.wav").write_bytes(wav(STEREO, RATE))
    expected = melfront.load_audio(tmp_path / "clip.wav")
    assert len(expected) == round(len(MONO) * 16_000 / RATE)
    for row in (
        {"bytes": wav(STEREO, RATE), "path": None},
        {"bytes": None, "path": str(tmp_path / "clip.wav")},
        {"array": MONO, "sampling_rate": RATE},
        {"array": MONO.tolist(), "sampling_rate": RATE, "path": "not-here.wav"},
        {"array": torch.tensor(MONO), "sampling_rate": torch.tensor(RATE)},
        Decoder(torch.tensor(STEREO.T.copy()), RATE),
    ):
        audio = melfront.load_audio(row)
        assert audio.dtype == np.float32
        assert audio.shape == expected.shape
        assert np.abs(audio - expected).max() <= ROUNDING
        assert log_mel(audio).shape == (128, 3_000)
    pcm = np.round(MONO * 32_767).astype(np.int16)
    audio = melfront.load_audio({"array": pcm, "sampling_rate": 16_000})
    assert np.array_equal(audio, (pcm / 32_768).astype(np.float32))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"array": MONO}, r"without 'sampling_rate'"),
        ({"array": STEREO, "sampling_rate": RATE}, r"shape \(20011, 2\); expected \(N,\)"),
        ({"array": MONO * np.nan, "sampling_rate": RATE}, "sample 0 is nan"),
        ({"array": 9e3 * MONO, "sampling_rate": RATE}, r"far outside \[-1, 1\]"),
        ({"array": [], "sampling_rate": RATE}, "no samples"),
        ({"bytes": b"", "path": None}, r"without bytes or a path.*\['bytes', 'path'\]"),
        ({"bytes": b"notes", "path": None}, "not an audio file"),
    ],
)
def test_row_without_audio(row, message):
    with pytest.raises(AudioError, match=message):
        melfront.load_audio(row)


# A data set of four clips

CLIPS = [Signal("speech", n, seed=n).array() for n in (16_001, 9_001, 401, 7_777)]


def has_torchcodec() -> bool:
    """It loads where FFmpeg's libraries are installed, in the versions that it knows."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return False
    return True


NO_TORCHCODEC = pytest.mark.skipif(not has_torchcodec(), reason="torchcodec cannot be imported")
DECODE = [pytest.param(False, id="files"), pytest.param(True, id="decoders", marks=NO_TORCHCODEC)]
START = [pytest.param("fork"), pytest.param("spawn", marks=pytest.mark.slow)]


def table(decode: bool):
    rows = [{"bytes": wav(clip, 16_000), "path": None} for clip in CLIPS]
    audio = datasets.Audio(sampling_rate=16_000, decode=decode)
    return datasets.Dataset.from_dict({"audio": rows}).cast_column("audio", audio)


def features(batch):
    return {"mel": log_mel(batch["audio"], n_mels=80)}


def collate(rows):
    return torch.as_tensor(log_mel([row["audio"] for row in rows], n_mels=80))


def assert_features(mels):
    expected = log_mel(CLIPS, n_mels=80)
    assert np.shape(mels) == expected.shape == (4, 80, 3_000)
    assert np.abs(np.asarray(mels) - expected).max() <= ROUNDING


@pytest.mark.parametrize("decode", DECODE)
@pytest.mark.parametrize("kind", [None, "numpy", "torch"])
def test_map(decode, kind):
    mapped = (
        table(decode)
        .with_format(kind)
        .map(features, batched=True, batch_size=3, remove_columns="audio")
    )
    assert_features(mapped.with_format("numpy")[:]["mel"])
    assert mapped.with_format("torch")[:2]["mel"].dtype == torch.float32


@pytest.mark.parametrize("decode", DECODE)
@pytest.mark.parametrize("start", START)
def test_map_in_processes(decode, start):
    log_mel(CLIPS[0])  # the parent has compiled code and has had threads of its own
    import multiprocess

    before = multiprocess.get_start_method()
    multiprocess.set_start_method(start, force=True)
    try:
        mapped = table(decode).map(
            features, batched=True, batch_size=2, num_proc=2, remove_columns="audio"
        )
    finally:
        multiprocess.set_start_method(before, force=True)
    assert_features(mapped.with_format("numpy")[:]["mel"])


@pytest.mark.parametrize("decode", DECODE)
@pytest.mark.parametrize("kind", [None, "numpy", "torch"])
def test_streaming(decode, kind):
    rows = table(decode).to_iterable_dataset().with_format(kind)
    rows = rows.map(features, batched=True, batch_size=3, remove_columns="audio")
    assert_features(np.stack([np.asarray(row["mel"]) for row in rows]))


@pytest.mark.parametrize("decode", DECODE)
@pytest.mark.parametrize("start", START)
def test_data_loader(decode, start):
    log_mel(CLIPS[0])
    loader = DataLoader(
        table(decode),
        batch_size=2,
        num_workers=2,
        collate_fn=collate,
        multiprocessing_context=start,
    )
    batches = list(loader)
    assert [batch.shape for batch in batches] == [(2, 80, 3_000)] * 2
    assert_features(torch.cat(batches))


@pytest.mark.slow
def test_ray():
    ray = pytest.importorskip("ray")
    ray.data = pytest.importorskip("ray.data")
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=200 << 20)
    try:
        rows = ray.data.from_items([{"audio": clip.tolist()} for clip in CLIPS])
        mapped = rows.map_batches(features, batch_size=2).take_all()
        by_length = ray.data.from_arrow(table(False).data.table).map_batches(features)
        assert_features([row["mel"] for row in mapped])
        assert_features([row["mel"] for row in by_length.take_all()])
    finally:
        ray.shutdown()
