"""`encoder.ray`: what the class gives, and on a local Ray whose worker is killed."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import melfront
from melfront.encoder import WhisperEncoder, built_in
from melfront.encoder.ray import EncodeClips
from tests.conftest import CHECKOUT
from tests.encoder.cli.commands import write
from tests.signals import sample

MODEL = "formula:toy"
SECONDS = built_in.TOY.n_frames / 100
WINDOW = built_in.TOY.n_frames * 160  # samples


@pytest.fixture
def clips(tmp_path) -> list[Path]:
    """Eleven clips of one to four windows."""
    audio, files = sample()[40_000:], []
    for i in range(11):
        n_samples = (1 + i % 4) * WINDOW - 13 * i
        files.append(write(tmp_path / f"{i}.wav", audio[1009 * i :][:n_samples]))
    return files


def expected(clip: Path) -> np.ndarray:
    """(W, T, S)"""
    model = WhisperEncoder.from_pretrained(MODEL)
    windows = melfront.chunks(melfront.load_audio(clip), SECONDS)
    mels = [
        melfront.log_mel(window, n_mels=model.config.n_mels, pad_to=SECONDS, compiled=False)
        for window in windows
    ]
    with torch.inference_mode():
        return np.stack([model(mel).last_hidden_state[0].numpy() for mel in mels])


def stacked(rows: list[dict]) -> np.ndarray:
    """The states of a clip's windows, in order: (W, T, S)."""
    ordered = sorted(rows, key=lambda row: row["window"])
    assert [row["window"] for row in ordered] == list(range(len(rows)))
    return np.stack([row["last_hidden_state"] for row in ordered])


def rows_of(encode: EncodeClips, column: str, values, **others) -> list[dict]:
    batches = list(encode({column: values, **others}))
    assert all(len(array) == 1 for batch in batches for array in batch.values())
    return [{name: array[0] for name, array in batch.items()} for batch in batches]


def test_a_row_for_each_window(clips):
    encode = EncodeClips(MODEL)
    paths = np.array([str(clip) for clip in clips], dtype=object)
    rows = rows_of(encode, "audio", paths, name=np.arange(len(clips)))
    for i, clip in enumerate(clips):
        of_clip = [row for row in rows if row["name"] == i]
        assert np.array_equal(
            np.stack([row["last_hidden_state"] for row in of_clip]), expected(clip)
        )
        n_frames = -(-len(melfront.load_audio(clip)) // 160)
        assert sum(row["attention_mask"].sum() for row in of_clip) == n_frames
    assert not any(row["error"] for row in rows)
    assert "audio" not in rows[0]


def test_paths_bytes_rows_and_waveforms_are_clips(clips):
    clip, encode = clips[3], EncodeClips(MODEL, column="clip")
    audio, data = melfront.load_audio(clip), clip.read_bytes()
    row = {"array": audio.tolist(), "sampling_rate": 16_000}
    for given in (str(clip), data, {"bytes": data, "path": None}, row, audio):
        column = np.empty(1, dtype=object)
        column[0] = given
        rows = rows_of(encode, "clip", column)
        assert np.array_equal(stacked(rows), expected(clip))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_clip_that_cannot_be_read_gives_a_row_with_the_error(clips, dtype):
    encode = EncodeClips(MODEL, dtype=dtype)
    clips[1].write_text("no audio")
    whole = clips[3].read_bytes()
    clips[3].write_bytes(whole[: len(whole) * 5 // 8])
    rows = rows_of(encode, "audio", np.array([str(clip) for clip in clips[:5]], dtype=object))
    bad = [row for row in rows if row["error"]]
    assert [row["window"] for row in bad] == [0, 2], "after two whole windows"
    assert "1.wav: not an audio file" in bad[0]["error"]
    assert "3.wav is cut short" in bad[1]["error"]
    for row in rows:
        assert row["last_hidden_state"].shape == rows[0]["last_hidden_state"].shape
        assert row["last_hidden_state"].dtype == (np.float16 if dtype == "float16" else np.float32)
        assert np.isnan(row["last_hidden_state"]).all() == bool(row["error"])
        assert bool(row["attention_mask"].sum()) == (not row["error"])
    assert len(rows) == 1 + 1 + 3 + 3 + 1


class DiesOnce(EncodeClips):
    """The first worker that comes to the fifth clip is killed in the middle of it."""

    def __init__(self, marker: str, column: str) -> None:
        super().__init__(MODEL, column=column)
        self.marker = Path(marker)

    def windows(self, clip):
        for window in super().windows(clip):
            yield window
            if Path(clip).name == "5.wav" and not self.marker.exists():
                self.marker.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def local_ray(tmp_path):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'melfront[ray]'")
    pytest.importorskip("ray.data")
    environment = {"PYTHONPATH": str(CHECKOUT), "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 << 20,
        log_to_driver=False,
        runtime_env={"env_vars": environment},
    )
    yield ray
    ray.shutdown()


@pytest.mark.slow  # Ray takes ten seconds to start
def test_no_clip_is_lost_with_a_killed_worker(local_ray, clips, tmp_path):
    marker = tmp_path / "killed"
    rows = [{"path": str(clip), "clip": clip.name} for clip in clips]
    states = local_ray.data.from_items(rows, override_num_blocks=6).map_batches(
        DiesOnce,
        fn_constructor_args=[str(marker), "path"],
        batch_size=2,
        compute=local_ray.data.ActorPoolStrategy(size=2),
    )
    rows = states.take_all()
    assert marker.exists(), "no worker was killed"
    for clip in clips:
        of_clip = [row for row in rows if row["clip"] == clip.name]
        assert np.array_equal(stacked(of_clip), expected(clip)), clip
    assert len(rows) == sum(1 + i % 4 for i in range(len(clips)))
