"""Another sound, or a decision changed, in a real browser: what the page computes is what we do."""

import base64
import re
from dataclasses import replace

import numpy as np
import pytest

import melfront
from melfront import parity, variants
from melfront.conventions import TRANSFORMERS, Convention
from melfront.encoder.report.source import ROOT
from melfront.parity import mistakes
from melfront.parity.noise import least_floor, rms
from melfront.parity.pages import what_if
from tests.encoder.report.conftest import needs_chromium
from tests.signals import sample

pytestmark = needs_chromium
soundfile = pytest.importorskip("soundfile")
MODULE = ROOT / "web" / "melfront.js"
STAGES = ("padded", "power", "mel", "log", "clamped", "features")
ENTRIES = what_if.of_front_end()
NAMES = [entry["name"] for entry in ENTRIES]
# The others are slow tests: the same decisions, otherwise, or decisions as simple as these.
EVERY_TIME = ("zero padding", "no centring", "first frame dropped", "symmetric window", "magnitude")
EVERY_TIME += ("HTK mel scale", "flipped mel axis", "natural logarithm", "maximum of each frame")
EVERY_TIME += ("tail of zeros",)
BOUND = 2.0  # units of noise: as right as any port


NUMBERS = """(values) => {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 1 << 15) {
    text += String.fromCharCode(...bytes.subarray(i, i + (1 << 15)));
  }
  return [btoa(text), values.constructor.name];
}"""


def numbers(tab, expression):
    """A typed array of the page."""
    text, kind = tab.evaluate(f"({NUMBERS})({expression})")
    return np.frombuffer(base64.b64decode(text), kind.removesuffix("Array").lower())


@pytest.fixture
def port(shared_tab):
    """A function of samples and options: the features (M, F) that web/melfront.js computes."""
    shared_tab.evaluate("async () => { window.port = await frontEnd(); }")

    def features(samples, **options):
        shared_tab.evaluate("s => { window.given = Float32Array.from(s); }", samples.tolist())
        shared_tab.evaluate("options => { window.got = port.logMel(given, options); }", options)
        return numbers(shared_tab, "got.data").reshape(shared_tab.evaluate("got.shape"))

    return features


def noise(x, truth):
    return rms(x - truth) / least_floor(truth)


@pytest.mark.numeric
@pytest.mark.parametrize("n_mels", [80, 128])
def test_the_port_is_right(port, n_mels):
    parity.assert_parity(port(sample(), nMels=n_mels), "features", audio=sample(), n_mels=n_mels)
    assert noise(port(sample(), nMels=n_mels), melfront.oracle.log_mel(sample(), n_mels=n_mels)) < 1


@pytest.mark.numeric
@pytest.mark.parametrize("n", [1, 159, 160, 201, 3200, 16_000])
@pytest.mark.parametrize("kind", ["noise", "silence"])
def test_short_clips(port, n, kind):
    clip = np.random.default_rng(n).normal(0, kind == "noise" and 0.1, n).astype(np.float32)
    truth = melfront.oracle.log_mel(clip, n_mels=80, pad_to=1.0)
    got = port(clip, nMels=80, padTo=1)
    assert got.shape == truth.shape
    assert noise(got, truth) < 1


def test_no_samples(port):
    with pytest.raises(Exception, match="no samples"):
        port(np.zeros(0))


def test_its_decisions_are_ours(shared_tab):
    tab = shared_tab
    known = tab.evaluate("async () => (await frontEnd()).CONVENTION")
    ours = {name: getattr(TRANSFORMERS, name) for name in what_if.DECISIONS}
    assert known == {**ours, "frame_start": -200}  # where ours says None: half a window
    for name, words in what_if.WORDS.items():
        for word in words:
            Convention(**{name: word})
            tab.evaluate("async c => (await frontEnd()).convention(c)", {name: word})
    for change in ({"hop": 1}, {"window": "kaiser"}, {"pad_mode": None}):
        said = tab.evaluate(
            """async change => {
              try { (await frontEnd()).convention(change); } catch (error) { return error.message; }
            }""",
            change,
        )
        assert next(iter(change)) in said


def test_the_module_is_short():
    assert MODULE.read_text("utf-8").count("\n") <= 250


@pytest.mark.numeric
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(e["name"], marks=[] if e["name"] in EVERY_TIME else pytest.mark.slow)
        for e in ENTRIES
    ],
)
def test_a_mistake_is_what_python_computes(shared_tab, name):
    entry, tab = mistakes.find(name), shared_tab
    tab.select_option("#mistake", name)
    tab.locator("[data-text=mistake]", has_text=re.compile(f"^{re.escape(name)}$")).wait_for()
    shown = dict(tab.evaluate("noise(tried.right, tried.wrong)"))
    assert tab.locator("[data-text=begins]").inner_text() == entry.stage
    assert entry.sentence in tab.locator("#mistake-text").inner_text()
    clip = numbers(tab, "samples")  # 16 bits
    convention = replace(TRANSFORMERS, **dict(entry.change))
    right, wrong = (
        variants.trace(clip, n_mels=80, convention=c, check_range=False)
        for c in (TRANSFORMERS, convention)
    )
    for stage in STAGES:
        off = noise(wrong[stage], right[stage])
        assert shown[stage] == pytest.approx(off, rel=1e-6, abs=1e-6), stage
    features = numbers(tab, "tried.wrong.features.data").reshape(wrong["features"].shape)
    assert noise(features, wrong["features"]) < BOUND
    # The picture too, within a step of its palette.
    tab.wait_for_function("stored.features")
    for row, frame in (3, 20), (40, 406), (77, 700):
        value = tab.evaluate(f"stored.features.at({frame}, {row})")
        step = np.ptp(wrong["features"]) / 127
        assert value == pytest.approx(wrong["features"][row, frame], abs=0.51 * step)
    tab.select_option("#mistake", "")
    tab.wait_for_function("!document.documentElement.classList.contains('changed')")


def test_right_wrong_and_difference(visit):
    tab = visit()
    right = tab.evaluate("pictures.log.image.src")
    tab.select_option("#mistake", "HTK mel scale")
    tab.wait_for_function("pictures.log.image.src.length")
    tab.wait_for_function("tried.wrong !== tried.right && tried.wrong")
    wrong = tab.evaluate("pictures.log.image.src")
    assert wrong != right
    tab.locator("[name=view][value=difference]").check()
    tab.wait_for_function("pictures.log.palette === 'berlin'")
    low, high = tab.evaluate("[pictures.log.low, pictures.log.high]")
    wrong, right = (numbers(tab, f"tried.{x}.log.data") for x in ("wrong", "right"))
    assert high == -low == pytest.approx(np.abs(wrong - right).max())
    tab.locator("[name=view][value=right]").check()
    tab.wait_for_function("pictures.log.palette === 'cut'")
    assert tab.evaluate("page.corners[1]") == pytest.approx(
        melfront.encoder.report.page.corners(80)[1]
    )
    tab.select_option("#mistake", "")
    tab.wait_for_function("!document.documentElement.classList.contains('changed')")


# Another sound


def heard(tab):
    tab.wait_for_function("tried.right && tried.right.features && !tried.mistake")
    return numbers(tab, "samples")


def is_right(tab):
    """Whether the page shows what we compute of the sound that it has."""
    clip = heard(tab)
    truth = melfront.oracle.log_mel(clip, n_mels=80)
    tab.wait_for_function("tried.right.padded.data[200 + 50] === samples[50]")
    features = numbers(tab, "tried.right.features.data").reshape(truth.shape)
    assert noise(features, truth) < BOUND
    return clip


@pytest.mark.numeric
def test_a_file(visit, tmp_path):
    clip = (sample()[20_000:52_000] * 2**15).round() / 2**15
    stereo = np.stack([clip, 0.5 * clip], axis=1)
    soundfile.write(tmp_path / "mine.wav", stereo, 16_000, subtype="FLOAT")
    tab = visit()
    tab.set_input_files("#file", tmp_path / "mine.wav")
    tab.wait_for_function("samples.length === 32000")
    assert tab.locator("[data-text=sound]").first.inner_text() == "mine.wav"
    assert np.allclose(is_right(tab), 0.75 * clip, atol=1e-6)
    assert tab.locator("#encoder-part").is_hidden()
    assert float(tab.evaluate("getComputedStyle(root).getPropertyValue('--clip-span')")) == 2.5
    tab.locator(".other [data-sound=own]").click()
    tab.wait_for_function("samples.length === 129600")
    assert tab.locator("#encoder-part").is_visible()


def test_a_file_dropped(visit, tmp_path):
    soundfile.write(tmp_path / "mine.wav", sample()[:16_000], 48_000)
    tab = visit()
    data = base64.b64encode((tmp_path / "mine.wav").read_bytes()).decode()
    tab.evaluate(
        """data => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], "mine.wav"));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
        }""",
        data,
    )
    tab.wait_for_function("samples.length > 5300 && samples.length < 5370")  # a third as many
    is_right(tab)


def test_no_sound_in_a_file(visit, tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    tab = visit()
    tab.set_input_files("#file", tmp_path / "text.wav")
    tab.wait_for_function("document.querySelector('.problem').textContent")
    assert "did not work" in tab.locator(".problem").inner_text()
    assert tab.evaluate("samples.length") == 129_600


def test_a_recording(visit):
    tab = visit(permissions=["microphone"])
    tab.locator("#record").click()
    tab.wait_for_function("byId('record').textContent === 'Stop'")
    tab.wait_for_timeout(1200)
    tab.locator("#record").click()
    tab.wait_for_function("samples.length !== 129600")
    clip = is_right(tab)
    assert 8_000 < len(clip) < 48_000
    assert np.abs(clip).max() > 0.01  # it beeps
    assert tab.locator("#record").inner_text() == "Record"


@pytest.mark.numeric
def test_sounds_made_in_the_page(visit):
    tab = visit()
    tab.locator("[data-sound=five]").click()
    tab.wait_for_function("samples.length === 80000")
    clip = is_right(tab)
    tone, click, sweep, hiss, silence = clip.reshape(5, 16_000)
    assert np.abs(np.fft.rfft(tone)).argmax() == 440
    assert np.flatnonzero(click).tolist() == [8000]
    assert (np.abs(sweep).max(), hiss.std()) == (
        pytest.approx(0.3, rel=1e-3),
        pytest.approx(0.058, abs=0.01),
    )
    assert not silence.any()
    tab.locator("#tone").fill("1000")
    tab.wait_for_function("samples.length === 32000")
    assert np.abs(np.fft.rfft(is_right(tab))).argmax() == 2000  # half a hertz each
