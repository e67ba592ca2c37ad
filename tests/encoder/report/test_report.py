"""The `--report` page: its numbers, its source lines, its size, and its errors."""

import ast
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

import melfront
from melfront.encoder import SIZES, EncoderConfig, WhisperEncoder, __main__, report
from melfront.encoder.report import figures, measure, page, picture, write
from tests.conftest import CHECKOUT
from tests.encoder.cli.test_cli import process, run
from tests.encoder.peers import TOY
from tests.encoder.report.conftest import ABOUT
from tests.signals import sample

# 3 s of positions and one block: small enough for gradients.
SMALL = EncoderConfig(
    n_mels=23, n_audio_ctx=150, n_audio_state=26, n_audio_head=2, n_audio_layer=1, n_audio_mlp=17
)


@pytest.fixture(scope="module")
def model() -> WhisperEncoder:
    return WhisperEncoder.from_formula(replace(SIZES["tiny"], n_audio_layer=1))


@pytest.fixture(scope="module")
def seen(model):
    return measure.look(sample(), model)


@pytest.fixture(scope="module")
def html(seen, model) -> str:
    return report.html_of("sample.flac", len(sample()), seen, model.config, ABOUT)


def words(html: str) -> str:
    """The page's text without script, style and markup, with single spaces."""
    body = re.sub(r"<(script|style).*?</\1>", "", html, flags=re.S)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def toy_page(tmp_path, audio) -> str:
    write(tmp_path / "toy.html", "clip", audio, WhisperEncoder.from_formula(TOY), ABOUT)
    return (tmp_path / "toy.html").read_text(encoding="utf-8")


# The receptive field: the samples that a position depends on before attention


@pytest.mark.parametrize("position", [0, 1, 2, 74, 148, 149])
def test_receptive_field_by_gradient(position):
    model = WhisperEncoder.from_formula(SMALL)
    front_end = melfront.LogMel(n_mels=SMALL.n_mels, pad_to=3.0)
    # With noise of constant loudness, nothing is 8 below the maximum. So the clamp, which depends
    # on the loudest value, passes no gradient on.
    audio = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32))
    audio.requires_grad_()
    stages = {}

    def tap(stage, x):
        stages[stage] = x
        return x

    model(front_end(audio), tap=tap)
    stages["gelu2"][0, :, position].square().sum().backward()
    touched = np.flatnonzero(audio.grad.numpy())
    first, last = measure.receptive_field(position, SMALL.n_frames)
    window_starts = first > 0  # the first value of the Hann window is 0
    assert (touched[0], touched[-1]) == (first + window_starts, last)
    assert len(touched) == last + 1 - touched[0], "a sample in between is missing"
    if 2 <= position < 149:
        assert (first, last) == (320 * position - 520, 320 * position + 519)


# Numbers and pictures match the encoder and the oracle


def test_numbers_of_the_sample_clip(html, seen):
    text = words(html)
    mel, mask = melfront.log_mel(sample(), n_mels=80, return_mask=True)
    log = melfront.oracle.trace(sample(), n_mels=80)["log"]
    below = log < log.max() - 8
    for sentence in (
        "129,600 samples",
        f"Its features there are {mel[0, -1]:.3f}, not 0".replace("-", "−"),
        f"{mask.sum()} of 3,000 frames",
        "the last is frame 811 , which begins at sample 129,560".replace(" ,", ","),
        f"Within the clip that is {100 * below[:, :810].mean():.1f} % of all values",
        f"with the padding, {100 * below.mean():.1f} %",
        f"between {mel.min():.2f} and {mel.max():.2f}".replace("-", "−"),
        "1,040 samples, 65 ms",
        f"only {np.count_nonzero(melfront.mel_filters(80))} are not zero",
    ):
        assert sentence in text
    # Find the last frame that covers the clip by removing samples from the end.
    heard = melfront.oracle.trace(sample())["windowed"]
    cut = melfront.oracle.trace(sample()[:-150])["windowed"]
    assert np.flatnonzero((heard != cut).any(axis=1))[-1] == 811


@pytest.mark.numeric
def test_states_match_the_encoder(seen, model):
    mel = melfront.log_mel(sample(), n_mels=80)
    with torch.inference_mode():
        states = model(mel, output_hidden_states=True).hidden_states
        weights = {}

        def tap(stage, x):
            weights[stage] = x
            return x

        model(mel, tap=tap)
    # float32 sums in another order, and features that are the oracle's after rounding.
    assert np.allclose(seen.after, states[-1][0], atol=1e-4)
    size = states[0][0].norm(dim=-1)
    assert np.allclose(seen.norm[0], size, rtol=1e-5)
    after = weights["block.0.mlp_residual"][0]
    cosine = (states[0][0] * after).sum(-1) / size / after.norm(dim=-1)
    assert np.allclose(seen.cosine[0], cosine, atol=1e-5)
    attention = weights["block.0.attn.weights"][0].numpy()
    n = seen.in_view
    assert (n, seen.attention.group) == (430, 1)
    assert np.allclose(seen.attention.shares[0], attention[:, :n, :n], atol=1e-5)
    to_padding = attention[:, :405, 405:].sum(-1).mean(-1)
    assert np.allclose(seen.attention.padding[0], to_padding, atol=1e-4)


def test_pooled_attention_keeps_its_sums():
    weights = torch.rand(3, 11, 11)
    pooled = measure.pool(weights, 4).numpy()  # groups of 4, 4 and 3
    assert pooled.shape == (3, 3, 3)
    assert np.allclose(pooled[:, 0, 0], weights[:, :4, :4].sum(-1).mean(-1))
    assert np.allclose(pooled[:, 2, 1], weights[:, 8:, 4:8].sum(-1).mean(-1))
    assert np.allclose(pooled.sum(-1)[:, 1], weights[:, 4:8].sum(-1).mean(-1))


def test_colours_of_a_palette_are_distinct():
    palettes = [picture.rgb(name, picture.LEVELS) for name in ("magma", "viridis", "berlin")]
    palettes += [picture.rgb("magma", figures.ATTENTION_LEVELS)]
    palettes += [picture.two_ramps(share) for share in np.linspace(0, 1, 41)]
    assert all(len(np.unique(p, axis=0)) == len(p) for p in palettes)


# Source lines


@pytest.mark.parametrize("name", page.LINES)
def test_source_line_is_where_the_page_says(name, html):
    line = page.lines()[name]
    text = (CHECKOUT / line.file).read_text()
    assert text.splitlines()[line.number - 1].strip() == line.text
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
    inside = [f.name for f in functions if f.lineno <= line.number <= f.end_lineno]
    assert inside == [line.function]
    assert f"{line.file}:{line.number} {line.function}" in words(html)


def test_missing_source_line_is_an_error():
    from melfront.encoder.report.source import line

    with pytest.raises(LookupError, match="0 lines of pad"):
        line(melfront.oracle.pad, "no such thing")


# A single file without external resources


class Resources(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.ids = [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.found += [v for k, v in attrs if k in ("src", "href", "srcset", "action", "poster")]
        self.ids += [attributes["id"]] if "id" in attributes else []


def test_page_has_no_external_references(html):
    resources = Resources()
    resources.feed(html)
    assert len(resources.found) > 20
    assert all(r.startswith(("data:", "#")) for r in resources.found)
    assert {r[1:] for r in resources.found if r.startswith("#")} <= set(resources.ids)
    assert len(resources.ids) == len(set(resources.ids))
    names = re.findall(r"https?://[^\"'\s<)]*", html)
    assert set(names) == {"http://www.w3.org/2000/svg"}  # SVG's namespace, never requested
    assert "@import" not in html
    assert "url(" not in html


# Other clips


@pytest.mark.parametrize("n_samples", [1, 159, 3520])
@pytest.mark.parametrize("kind", ["silence", "noise"])
def test_any_clip_has_a_page(tmp_path, n_samples, kind):
    audio = np.zeros(n_samples, dtype=np.float32)
    if kind == "noise":
        audio += np.random.default_rng(1).uniform(-1, 1, n_samples).astype(np.float32)
    code = "<code>.*?</code>|<pre.*?</pre>|<select.*?</select>"  # Python's, and names of mistakes
    text = words(re.sub(code, "", toy_page(tmp_path, audio), flags=re.S))
    assert f"{-(-n_samples // 160)} of 22 frames" in text
    if kind == "silence":
        assert "Its features there are −1.500" in text
    for wrong in ("nan", "inf ", "Undefined", "None"):
        assert wrong not in text


def test_page_shows_the_first_window_of_a_long_clip(tmp_path):
    long = sample()[40_000:50_001]
    text = words(toy_page(tmp_path, long))
    assert "The first 0.22 s only. The clip has 10,001 samples, 0.63 s" in text
    first = words(toy_page(tmp_path, long[:3520]))
    assert "only" not in first.partition("The waveform")[0].replace("The first", "")
    # Everything after the note is identical.
    same = text.partition("A microphone")[2]
    assert same
    assert same == first.partition("A microphone")[2]


def test_file_name_is_escaped(tmp_path):
    audio = sample()[:3520]
    write(tmp_path / "x.html", "<b>&'\".wav", audio, WhisperEncoder.from_formula(TOY), ABOUT)
    assert "&lt;b&gt;&amp;&#39;&#34;.wav" in (tmp_path / "x.html").read_text()


# The command


def test_command_without_other_arguments(tmp_path):
    done, seconds = process(tmp_path, "-m", "melfront.encoder", "--report", "tour.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "written to tour.html: open it in a browser"
    assert os.listdir(tmp_path) == ["tour.html"]
    assert seconds < 30
    text = words((tmp_path / "tour.html").read_text(encoding="utf-8"))
    assert "These weights come from a formula" in text
    assert "128 triangles" in text
    assert "head 6" not in text, "the script lists the heads"


@pytest.mark.slow
def test_trained_weights_in_half_a_minute(tmp_path, jfk_path, tiny_en):
    done, seconds = process(
        tmp_path, "-m", "melfront.encoder", jfk_path, "--model", tiny_en, "--report", "tour.html"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert seconds < 30
    assert (tmp_path / "tour.html").stat().st_size < 15e6
    text = words((tmp_path / "tour.html").read_text(encoding="utf-8"))
    assert "come from a formula" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.wav", "b.wav", "--report", "tour.html"], "of 2 clips: it shows one"),
        (["--report", "tour.flac"], "expected a .html file"),
        (["--report", "there.html"], "a folder; expected the name of a file"),
        (["--report", "missing/tour.html"], "no such folder to write tour.html into"),
    ],
)
def test_bad_usage_is_one_line_before_loading(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("there.html").mkdir()
    monkeypatch.setattr(__main__, "load_model", lambda *_: pytest.fail("loaded the model"))
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_failed_write_keeps_the_old_page(tmp_path, monkeypatch):
    old = tmp_path / "tour.html"
    old.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write(old, "clip", sample()[:3520], WhisperEncoder.from_formula(TOY), ABOUT)
    assert old.read_text() == "old"
    assert os.listdir(tmp_path) == ["tour.html"]


def test_importing_the_encoder_does_not_import_the_page():
    code = (
        "import sys, melfront.encoder.__main__; from melfront import encoder\n"
        "heavy = 'melfront.encoder.report', 'jinja2', 'matplotlib'\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
