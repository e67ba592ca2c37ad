"""A page in a real browser, for all tests that look at it."""

import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest

from melfront.encoder import SIZES, WhisperEncoder, report
from melfront.encoder.command.words import Word
from melfront.encoder.report import measure
from melfront.parity.pages import what_if
from tests.signals import sample

ABOUT = {"model": "formula", "device": "cpu", "dtype": "float32"}
ABOUT |= {"melfront": "0", "torch": "0", "numpy": "0"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium: apt-get install chromium (Debian)"
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--mute-audio",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",  # a microphone that beeps
    "--use-fake-ui-for-media-stream",
]
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 800}
SPOKEN = [Word(0.2, 0.5, "one"), Word(4.0, 4.5, "two"), Word(4.5, 7.0, "seventeen")]
SPAN = 8.6  # seconds in view: 405 positions of the clip and 25 of padding, 20 ms each


@pytest.fixture(scope="package")
def model():
    return WhisperEncoder.from_formula(replace(SIZES["tiny"], n_audio_layer=2))


@pytest.fixture(scope="package")
def seen(model):
    return measure.look(sample(), model)


@pytest.fixture(scope="package")
def address(seen, model, tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("report") / "tour.html"
    mistakes = what_if.of_clip(seen, model)
    html = report.html_of("sample.flac", len(sample()), seen, model.config, ABOUT, SPOKEN, mistakes)
    file.write_text(html, encoding="utf-8")
    return file.as_uri()


@pytest.fixture(scope="package")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'"
    )
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def visits(browser, address):
    """Open the page. At the end, there must be no console message, error or network request."""
    contexts, complaints, requests = [], [], []

    def visit(at="", **options):
        context = browser.new_context(**{"viewport": WIDE, "offline": True, **options})
        contexts.append(context)
        context.on("request", lambda request: requests.append(request.url))
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(address + at)
        return tab

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []
    asked = [r.partition("#")[0] for r in requests if not r.startswith(("data:", "blob:"))]
    assert asked == [address] * len(contexts)


@pytest.fixture
def visit(browser, address):
    with visits(browser, address) as visit:
        yield visit


@pytest.fixture(scope="module")
def shared_tab(browser, address):
    """One visit for many tests, each of which leaves the page as it was."""
    with visits(browser, address) as visit:
        yield visit()
