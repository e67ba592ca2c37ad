"""The plot: every report can be drawn, and errors are in the right place."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest
import torch

import melfront
from melfront import parity
from melfront.parity import mistakes
from melfront.parity.__main__ import main
from melfront.parity.comparison.one_stage import judge
from melfront.parity.comparison.reports import plot
from melfront.parity.files.tensors import Tensor
from melfront.parity.noise import Floor
from melfront.parity.pipeline import load_model
from melfront.parity.signals import SIGNALS
from melfront.parity.stages import Stage
from tests.parity.ports import as_float32, front_end_dump

SPEECH = SIGNALS["speech"].make()
AUDIO = SIGNALS["toy"].make()
TOY = load_model("formula:toy")
FRONT = as_float32(parity.trace(SPEECH, n_mels=80, pad_to=None))
WHOLE = as_float32(parity.trace(AUDIO, TOY))


def compare(stages, **options):
    return parity.compare(stages, audio=SPEECH, n_mels=80, pad_to=None, **options)


def picture(path):
    """(height, width, 3), 0 .. 1."""
    assert path.read_bytes().startswith(b"\x89PNG")
    return matplotlib.image.imread(path)[..., :3]


def flashy(image):
    """The number of coloured pixels, without the colour bar on the right."""
    image = image[:, : int(0.9 * image.shape[1])]
    return int(((image.max(-1) - image.min(-1)) > 0.3).sum())


def named(name):
    return front_end_dump(SPEECH, mistakes.find(name).convention())


REPORTS = {
    "pass": lambda: compare({"features": FRONT["features"]}),
    "exact": lambda: compare(parity.trace(SPEECH, n_mels=80, pad_to=None)),
    "edge": lambda: compare({"features": named("zero padding")["features"]}),
    "shift": lambda: compare({"features": named("one sample late")["features"]}),
    "front end": lambda: compare(named("symmetric window")),
    "forced": lambda: compare(named("symmetric window"), forced=True),
    "waveform": lambda: compare({"padded": named("zero padding")["padded"]}),
    "spectrum": lambda: compare({"spectrum": named("normalised STFT")["spectrum"]}),
    "shape": lambda: compare({"features": FRONT["features"][:, :-1]}),
    "nan": lambda: compare({"features": FRONT["features"] * np.nan}),
    "infinity": lambda: compare({"features": FRONT["features"] + np.inf}),
    "bfloat16": lambda: compare({"features": torch.tensor(FRONT["features"]).bfloat16()}),
    "encoder": lambda: parity.compare(WHOLE, audio=AUDIO, model=TOY),
    "scores": lambda: parity.compare(
        {"block.0.attn.scores": WHOLE["block.0.attn.scores"] * 3}, audio=AUDIO, model=TOY
    ),
    "batch": lambda: parity.compare(
        {"features": melfront.log_mel([SPEECH, SPEECH[::-1]], pad_to=0.4)},
        audio=[SPEECH, SPEECH],
        pad_to=0.4,
    ),
}


@pytest.mark.parametrize("kind", sorted(REPORTS))
def test_every_report_can_be_drawn(no_search, tmp_path, kind):
    path = tmp_path / "error.png"
    plot.plot(REPORTS[kind](), path)
    assert picture(path).shape[1] > 1000
    assert list(tmp_path.iterdir()) == [path]


def test_errors_are_visible(no_search, tmp_path):
    counts = {}
    for kind in ("pass", "edge", "shift"):
        plot.plot(REPORTS[kind](), tmp_path / f"{kind}.png")
        counts[kind] = flashy(picture(tmp_path / f"{kind}.png"))
    assert counts["pass"] < counts["edge"] / 2 < counts["shift"] / 4, counts


def test_one_wrong_frame_of_thousands_is_visible():
    error = np.zeros((80, 3000))
    error[17, 1234] = 5
    small = plot.gathered(error, plot.ROWS, plot.COLUMNS)
    assert small.shape == (80, plot.COLUMNS)
    assert small.max() == 5
    error[3, 7] = np.nan
    assert np.isnan(plot.gathered(error, 10, 10)).sum() == 1


def test_which_stage_is_shown(no_search):
    assert plot.pictured(REPORTS["front end"]()).name == "windowed"
    assert plot.pictured(REPORTS["encoder"]()).name == "ln_post"  # all pass: shows the last
    assert plot.pictured(REPORTS["shape"]()) is None


@pytest.mark.parametrize("stage", list(WHOLE))
def test_time_is_the_horizontal_axis(stage):
    """A wrong value is drawn in the column of its time."""
    mine = WHOLE[stage].copy()
    axes = {"padded": 0, "mel": 1, "log": 1, "clamped": 1, "features": 1}
    axes |= {name: 1 for name in ("conv1", "gelu1", "conv2", "gelu2")}
    axis = axes.get(stage, 1 if ".scores" in stage or ".weights" in stage else 0)
    index = [0] * mine.ndim
    index[axis] = 9 if stage != "padded" else 9 * 160 + 3
    mine[tuple(index)] += 7
    result, _ = judge(Stage(stage), Tensor(mine, "float32"), WHOLE[stage], Floor(1e-6, "step"))
    error, _, seconds, start = plot.image(result)
    assert np.unravel_index(np.nanargmax(error), error.shape)[1] == 9
    whole_length = 0.22
    assert error.shape[1] * seconds + start == pytest.approx(whole_length, abs=0.026)


def test_title(tmp_path):
    report = REPORTS["edge"]()
    title = plot.title(report, plot.pictured(report)).replace("\n", " ")
    for word in ("features", "WRONG", "zero padding", "transformers"):
        assert word in title


def test_command_line(tmp_path, capsys):
    import soundfile

    soundfile.write(tmp_path / "clip.wav", SPEECH, 16_000, subtype="FLOAT")
    np.savez(tmp_path / "mine.npz", features=FRONT["features"] - 1)
    options = ["--audio", str(tmp_path / "clip.wav"), "--pad-to", "none"]
    mine, out = str(tmp_path / "mine.npz"), tmp_path / "out.png"
    assert main(["compare", mine, *options, "--plot", str(out)]) == 1
    assert "offset left out" in capsys.readouterr().out
    picture(out)
    (tmp_path / "folder.png").mkdir()
    assert main(["compare", mine, *options, "--plot", str(tmp_path / "folder.png")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_failed_plot_leaves_no_file(tmp_path, monkeypatch):
    def failing(self, file, **_):
        with open(file, "wb") as half:
            half.write(b"\x89PNG")
        raise OSError("no space left")

    monkeypatch.setattr(plot.FigureCanvasAgg, "print_png", failing)
    with pytest.raises(OSError, match="no space"):
        plot.plot(REPORTS["pass"](), tmp_path / "out.png")
    assert list(tmp_path.iterdir()) == []
