"""The figure of `melfront --plot`."""

import pytest

import melfront
from melfront import plot
from melfront.__main__ import main
from tests.signals import Signal

soundfile = pytest.importorskip("soundfile")


@pytest.mark.parametrize("kind", ["speech", "silence"])
@pytest.mark.parametrize(("n", "n_mels"), [(9_001, 128), (1, 80), (1_000_003, 7)])
def test_plot(tmp_path, kind, n, n_mels):
    path = tmp_path / "costs $3 _$5^{.wav"
    soundfile.write(path, Signal(kind, n, seed=3).array(), 16_000)
    assert main([str(path), "--n-mels", str(n_mels), "--plot", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_axes_of_the_plot(sample):
    clip = plot.Overview()
    clip.add(sample, melfront.log_mel(sample, n_mels=80))
    figure = plot.figure(clip, "sample.flac")
    above, below, bar = figure.axes
    assert below.get_xlabel() == "time in s"
    assert below.get_ylabel() == "centre of mel bin in Hz"
    assert above.get_xlim() == below.get_xlim() == (0, 8.1)
    # The labels are the centres of librosa's filters.
    librosa = pytest.importorskip("librosa")
    centres = librosa.mel_frequencies(82, fmin=0, fmax=8_000)[1:-1]
    ticks = zip(below.get_yticks(), below.get_yticklabels(), strict=True)
    assert [text.get_text() for _, text in ticks] == [
        f"{centres[int(y)]:.0f}" for y in below.get_yticks()
    ]
    assert "40 dB" in bar.get_ylabel()
    # Frame 100 is centred on 1 s, bin 7 on 7.
    image = below.images[0]
    left, right, bottom, top = image.get_extent()
    assert (left, right) == pytest.approx((-0.005, 8.095))
    assert (bottom, top) == (-0.5, 79.5)
    assert image.get_array().shape == (80, 810)
