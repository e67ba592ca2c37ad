"""The `--report` page in a real browser: mouse, sound, keyboard and accessibility."""

from importlib.resources import files

import numpy as np
import pytest

from tests.encoder.report.conftest import PHONE, SPAN, needs_chromium
from tests.signals import sample

pytestmark = needs_chromium


def point(tab, plot: str, x: float, y: float = 0.5) -> None:
    """Move the mouse to a point of a picture: fractions of its width and height from top left."""
    tab.eval_on_selector(
        f"#{plot}", "e => e.scrollIntoView({block: 'center', behavior: 'instant'})"
    )
    box = tab.locator(f"#{plot}").bounding_box()
    tab.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])


def moment(tab) -> tuple[int, int]:
    return tuple(
        int(tab.evaluate(f"document.documentElement.dataset.{x}")) for x in ("frame", "position")
    )


def text(tab, name: str) -> str:
    return tab.locator(f'[data-text="{name}"]').first.inner_text()


def seconds(tab, plot: str, mark: str, span: float = SPAN) -> tuple[float, float]:
    """The edges of a mark on the picture's time axis, in seconds."""
    box = tab.locator(f"#{plot}").bounding_box()
    edges = tab.locator(f"#{plot} .{mark}").bounding_box()
    left = (edges["x"] - box["x"]) / box["width"] * span
    return left, left + edges["width"] / box["width"] * span


ACROSS = ["waveform", "power", "log", "conv1", "gelu1", "conv2", "gelu2", "table", "norm", "cosine"]
ACROSS += ["row", "normed", "gathered", "units", "before", "after"]


@pytest.mark.parametrize("where", ["waveform", "log", "conv2", "after"])
def test_pointing_at_a_position_marks_it_in_every_picture(visit, where):
    tab = visit()
    assert sorted(tab.eval_on_selector_all(".plot", "all => all.map(e => e.id)")) == sorted(
        [*ACROSS, "features", "attention"]
    )
    point(tab, where, 20e-3 * 203 / SPAN)
    assert moment(tab) == (406, 203)
    for plot in [*ACROSS, "features"]:
        span = 30 if plot == "features" else SPAN
        pixel = span / tab.locator(f"#{plot}").bounding_box()["width"]
        # Frames 406 and 407, centred on 4.06 and 4.07 s; at least three pixels wide.
        left, right = seconds(tab, plot, "frames", span)
        assert left == pytest.approx(4.055, abs=pixel)
        assert right == pytest.approx(max(4.075, left + 3 * pixel), abs=pixel)
        # 520 samples before and after sample 320 * 203.
        left, right = seconds(tab, plot, "field", span)
        assert left == pytest.approx((64_960 - 520) / 16_000, abs=pixel)
        assert right == pytest.approx((64_960 + 520) / 16_000, abs=pixel)
        left, right = seconds(tab, plot, "cursor", span)
        assert (left + right) / 2 == pytest.approx(4.06, abs=pixel)
    assert text(tab, "time") == "4.06 s"
    assert text(tab, "frames") == "406, 407"
    assert text(tab, "samples") == "64,760 – 65,319"  # 160 * 406 - 200 .. 160 * 407 + 199
    assert text(tab, "field") == "64,440 – 65,479"
    row = tab.locator("#attention .row").bounding_box()
    box = tab.locator("#attention").bounding_box()
    assert (row["y"] + 1 - box["y"]) / box["height"] * SPAN == pytest.approx(4.06, abs=0.03)


def test_values_under_the_pointer_match_the_tensors(visit, seen):
    tab = visit()
    power = np.log10(np.maximum(seen.front["power"].T, 1e-30))
    tensors = {
        "power": np.clip(power, power.max() - 12, None),
        "log": seen.front["log"],
        "features": seen.front["features"],
    }
    for name, tensor in tensors.items():
        rows = len(tensor)
        for row, frame in (2, 12), (rows // 3, 406), (rows - 3, 700):
            span = 30 if name == "features" else SPAN
            x = frame / 100 / span
            point(tab, name, x, 1 - (row + 0.5) / rows)
            assert moment(tab)[0] == pytest.approx(frame, abs=1)  # 30 s: less than a pixel
            tab.wait_for_function(f"valueAt('{name}') !== ''")
            shown = tab.evaluate(f"valueAt('{name}')")
            value = float(shown.partition(": ")[2].lstrip("≤≥ ").split()[0].replace("−", "-"))
            assert shown.partition(" ")[0] in ("frequency", "mel")
            assert int(shown.partition(",")[0].split()[-1]) == row
            step = np.ptp(tensor) / 127  # step of the palette; two digits are shown
            assert value == pytest.approx(tensor[row, moment(tab)[0]], abs=step / 2 + 0.005)


@pytest.mark.parametrize("frame", [0, 1, 406, 809, 811, 812, 2999])
def test_drawn_frame_matches_the_oracle(visit, seen, frame):
    tab = visit()
    tab.evaluate(f"show({frame})")
    drawn = tab.evaluate(
        "page.window.map((w, i) => w * sample(frame * page.hop - page.nFft / 2 + i))"
    )
    # The page stores sound in 16 bits, the window with six digits. Frame 2999 is mirrored silence.
    assert np.allclose(drawn, seen.front["windowed"][frame], atol=2**-16 + 1e-6)


def test_attention_matches_the_model(visit, seen):
    tab = visit()
    point(tab, "attention", 0.5, 4.06 / SPAN)
    assert moment(tab) == (406, 203)
    tab.wait_for_function("shares !== null")
    for turn, head in ("", 0), ("[data-turn='head:1']", 1), ("[data-turn='head:-1']", 0):
        if turn:
            tab.locator(turn).click()
            tab.wait_for_function("shares !== null")
        assert text(tab, "head") == str(head + 1)
        levels = tab.evaluate("[...shares.levels.filter((_, i) => i % 7 === 0)]")
        log = np.log10(seen.attention.shares[0, head])
        low = np.log10(0.05 / 1500)
        expected = np.clip((log - low) / -low, 0, 1) * 63
        assert np.abs(np.array(levels) - expected.ravel()[::7]).max() < 0.51
    tab.keyboard.press("]")
    assert text(tab, "block") == "2"
    tab.keyboard.press(".")
    assert text(tab, "head") == "2"
    thumbs = tab.locator(".thumbs button")
    assert thumbs.count() == 6
    thumbs.nth(4).click()
    assert text(tab, "head") == "5"
    assert thumbs.nth(4).get_attribute("aria-pressed") == "true"
    picture = tab.locator("#attention-picture")
    assert (picture.get_attribute("data-block"), picture.get_attribute("data-head")) == ("1", "4")


def test_play_moves_the_cursor(visit):
    tab = visit()
    tab.evaluate("show(100)")
    before = seconds(tab, "waveform", "cursor")[0]
    tab.locator("#play").click()
    tab.wait_for_function("document.documentElement.dataset.frame >= 130")
    assert text(tab, "time") > "1.29"
    tab.wait_for_function("play.textContent === 'Pause'")
    assert seconds(tab, "waveform", "cursor")[0] > before + 0.25
    assert tab.evaluate("Math.abs(audio.currentTime - frame / 100)") < 0.1
    tab.locator("#play").click()
    tab.wait_for_function("play.textContent === 'Play'")
    stopped = moment(tab)
    tab.wait_for_timeout(150)
    assert moment(tab) == stopped


def test_sound_matches_the_clip(visit):
    tab = visit()
    tab.wait_for_function("audio.readyState > 0")
    assert tab.evaluate("audio.duration") == pytest.approx(8.1, abs=1e-3)
    assert np.allclose(tab.evaluate("[...samples]"), sample(), atol=2**-16)


def test_everything_works_with_the_keyboard(visit):
    tab = visit()
    tab.evaluate("show(406)")

    def press(plot: str, *keys: str) -> tuple[int, int]:
        tab.locator(f"#{plot}").focus()
        for key in keys:
            tab.keyboard.press(key)
        return moment(tab)

    assert press("log", "ArrowRight") == (407, 203)
    assert press("conv2", "ArrowRight") == (408, 204)
    assert press("conv2", "ArrowLeft", "ArrowLeft") == (404, 202)
    assert press("attention", "ArrowDown") == (406, 203)
    assert press("waveform", "PageDown") == (456, 228)
    assert press("waveform", "Home") == (0, 0)
    assert press("waveform", "ArrowLeft") == (0, 0)
    assert press("slider", "ArrowRight") == (2, 1)
    press("features", "ArrowUp", "ArrowUp")
    tab.wait_for_function("valueAt('features').startsWith('mel bin 1,')")
    assert tab.locator("#features").get_attribute("aria-valuetext") == "frame 2, 0.02 seconds"
    press("waveform", "Space")
    tab.wait_for_function("play.textContent === 'Pause'")
    # Tab reaches every picture, button and slider.
    reached = tab.evaluate(
        "[...document.querySelectorAll('.plot, button, input, a')].every(e => e.tabIndex >= 0)"
    )
    assert reached


def test_view_of_the_whole_window(visit):
    tab = visit()
    tab.evaluate("show(406)")
    tab.locator("#view").click()
    assert tab.locator("#view").get_attribute("aria-pressed") == "true"
    left, right = seconds(tab, "waveform", "cursor", span=30)
    assert (left + right) / 2 == pytest.approx(4.06, abs=0.05)
    point(tab, "conv2", 20 / 30)
    assert moment(tab) == pytest.approx((2000, 1000), abs=2)
    # Attention is shown for the clip only, and the page says so beyond the clip's end.
    tab.locator("#row").scroll_into_view_if_needed()
    tab.wait_for_function(
        "document.querySelector('[data-text=share]').innerText.startsWith('beyond')"
    )


def test_using_the_page_adds_no_listeners(visit):
    """Listeners added inside a listener would accumulate, or miss their event."""
    tab = visit()
    tab.locator("#attention").scroll_into_view_if_needed()
    tab.wait_for_selector(".thumbs button")
    tab.evaluate("""() => {
      const add = EventTarget.prototype.addEventListener;
      window.added = [];
      EventTarget.prototype.addEventListener = function (kind, ...rest) {
        added.push(kind);
        return add.call(this, kind, ...rest);
      };
    }""")
    for button in ["#view", "#view", "[data-turn='block:1']", "[data-turn='head:1']"]:
        tab.locator(button).click()
    tab.locator(".thumbs button").nth(3).click()
    tab.locator(".thumbs").click(position={"x": 1, "y": 1})
    assert text(tab, "head") in "14"  # a click between two heads selects nothing
    point(tab, "conv2", 0.5)
    tab.keyboard.press("]")
    tab.locator("#play").click()
    tab.wait_for_function("play.textContent === 'Pause'")
    tab.locator("#play").click()
    tab.evaluate("dispatchEvent(new Event('resize')); dispatchEvent(new Event('beforeprint'))")
    tab.wait_for_timeout(100)
    assert tab.evaluate("added") == []


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "width", [390, *(pytest.param(w, marks=pytest.mark.slow) for w in (768, 1100, 1440, 1920))]
)
def test_axe_finds_no_violations(visit, scheme, width):
    pytest.importorskip("axe_playwright_python", reason="no axe: pip install -e '.[test]'")
    tab = visit(color_scheme=scheme, viewport={"width": width, "height": 900})
    tab.select_option("#mistake", "symmetric window")
    tab.wait_for_function("!document.querySelector('#mistake-text').hidden")
    tab.locator(".source summary").first.click()
    tab.locator("#attention").scroll_into_view_if_needed()
    tab.wait_for_selector(".thumbs button")
    tab.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    found = tab.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert len(found["passes"]) > 20
    assert [(v["id"], [n["target"] for n in v["nodes"]][:5]) for v in found["violations"]] == []


def test_on_a_phone(visit):
    tab = visit(viewport=PHONE, has_touch=True)
    assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    tab.locator("#log").scroll_into_view_if_needed()
    box = tab.locator("#log").bounding_box()
    tab.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + 20)
    assert moment(tab)[0] == pytest.approx(430, abs=3)
    assert box["width"] > 0.75 * PHONE["width"]  # labels and margins take the rest


def test_printed_page_has_charts(visit):
    tab = visit()
    tab.wait_for_function("stored.power && stored.log")
    tab.emulate_media(media="print")
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    charts = tab.eval_on_selector_all("svg.chart", "all => all.map(e => [e.id, e.children.length])")
    assert len(charts) == 6
    assert all(children > 3 for _, children in charts), charts
    assert tab.locator(".bar").is_hidden()
    assert len(tab.pdf()) > 100_000


def test_pictures_are_visible_without_javascript(visit):
    tab = visit(java_script_enabled=False)
    assert tab.locator("noscript p").count() == 1
    assert tab.locator("noscript p").is_visible()
    for name in "power", "features", "after":
        assert tab.locator(f"#{name} img").bounding_box()["width"] > 500
