"""The axes of the `--report` page in a real browser: each matches its picture at every width."""

from dataclasses import replace

import numpy as np
import pytest

from melfront.encoder import SIZES, WhisperEncoder, report
from melfront.encoder.report import measure
from tests.encoder.report.conftest import ABOUT, SPAN, SPOKEN, needs_chromium
from tests.signals import sample

pytestmark = needs_chromium

WIDTHS = (390, 768, 900, 1100, 1440, 1920)
A4 = 794 - 2 * 57  # CSS pixels: 210 mm at 96 per inch, minus two margins of 15 mm

# The boxes of all elements on the page, as [left, top, right, bottom] in pixels.
LOOK = """() => {
  const box = (e) => {
    const { left, top, right, bottom } = e.getBoundingClientRect();
    return [left, top, right, bottom];
  };
  const seen = (e) => e.getClientRects().length > 0;
  const texts = (e, kind) => [...(e?.querySelectorAll(kind) ?? [])].filter(seen)
    .map((t) => [t.textContent, ...box(t)]);
  const axes = [...document.querySelectorAll(".axes")].map((e) => {
    const plot = e.querySelector(".plot, .mask");
    const drawn = plot.querySelector("img, .shares");
    const [x, y] = [e.querySelector(".x-axis"), e.querySelector(".y-axis")];
    return {
      name: plot.id || "mask", plot: box(plot), x: x && box(x), y: box(y),
      across: texts(x, "span"), up: texts(y, ".tick"), title: texts(y, ".name"),
      span: +getComputedStyle(e).getPropertyValue("--span"), step: +plot.dataset.step / 1000,
      drawn: drawn && box(drawn),
      columns: drawn && (drawn.naturalWidth ?? drawn.viewBox.baseVal.width),
    };
  });
  const histogram = document.querySelector(".histogram");
  return {
    axes, page: [document.documentElement.scrollWidth, innerWidth],
    histogram: [box(histogram), box(histogram.nextElementSibling)],
    thumbs: [...document.querySelectorAll(".thumbs img")].map(box),
  };
}"""


@pytest.fixture(scope="module", params=[(4, 1), (6, 1), (8, 1), (20, 4)], ids="heads{0[0]}".format)
def tour(request, browser, tmp_path_factory):
    """The page of a model with that many heads, and the number of positions per attention pixel."""
    heads, group = request.param
    config = replace(SIZES["tiny"], n_audio_state=8 * heads, n_audio_head=heads, n_audio_layer=1)
    model = WhisperEncoder.from_formula(config)
    with pytest.MonkeyPatch.context() as patch:
        if group > 1:  # as in large-v3, whose 640 pictures share the pixels
            patch.setattr(measure, "PIXELS", heads * 108**2)
        seen = measure.look(sample(), model)
    assert seen.attention.group == group
    file = tmp_path_factory.mktemp("axes") / "tour.html"
    file.write_text(
        report.html_of("sample.flac", len(sample()), seen, config, ABOUT, SPOKEN), "utf-8"
    )
    tab = browser.new_page(viewport={"width": 1100, "height": 900})
    tab.goto(file.as_uri())
    tab.locator("#row").scroll_into_view_if_needed()
    tab.wait_for_function("document.querySelector('#row-chart').viewBox.baseVal.width")
    yield tab, group
    tab.close()


def number(text: str) -> float:
    return float(text.strip().removesuffix("s").removesuffix("%").replace("−", "-"))


def apart(labels: list) -> bool:
    """Whether no two labels overlap."""
    boxes = [label[1:] for label in labels]
    return not any(
        a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
        for i, a in enumerate(boxes)
        for b in boxes[:i]
    )


@pytest.mark.parametrize("whole", [False, True], ids=["clip", "whole"])
@pytest.mark.parametrize("width", [*WIDTHS, "print"])
def test_every_axis_matches_its_picture(tour, width, whole):
    tab, group = tour
    tab.emulate_media(media="print" if width == "print" else "screen")
    tab.set_viewport_size({"width": A4 if width == "print" else width, "height": 900})
    tab.evaluate("whole => document.documentElement.classList.toggle('whole-view', whole)", whole)
    look = tab.evaluate(LOOK)
    assert look["page"][0] <= look["page"][1], "the page is wider than the window"
    assert len(look["axes"]) == 19
    for axes in look["axes"]:
        name = axes["name"]
        left, top, right, bottom = axes["plot"]
        always = {"features": 30, "mask": 30, "attention": SPAN, "row": SPAN}
        assert axes["span"] == always.get(name, 30 if whole else SPAN)
        x, y = axes["x"], axes["y"]
        assert (y[1], y[2], y[3]) == pytest.approx((top, left, bottom), abs=0.5), name
        assert apart(axes["up"] + axes["title"]), (name, axes["up"], axes["title"])
        if name == "mask":
            continue
        assert (x[0], x[2]) == pytest.approx((left, right), abs=0.5), name
        assert bottom <= x[1] + 0.5, name
        assert apart(axes["across"]), (name, axes["across"])
        assert len(axes["across"]) >= 4
        second = (right - left) / axes["span"]  # pixels
        for text, x0, _, x1, _ in axes["across"]:
            assert (x0 + x1) / 2 == pytest.approx(left + number(text) * second, abs=1), name
        for text, _, y0, _, y1 in axes["up"]:
            assert top - 1 <= (y0 + y1) / 2 <= bottom + 1, (name, text)
            from_top = {  # the position at which a label's value is drawn
                "attention": lambda t: t / SPAN,
                "power": lambda hz: 1 - (hz / 40 + 0.5) / 201,
                "waveform": lambda x: (1.05 - np.sign(x)) / 2.1,  # its peak is 1 of 1.05
                "row": lambda share: np.log10(share / 100) / np.log10(0.05 * group / 1500),
            }
            if name in from_top:
                share = from_top[name](number(text))
                assert (y0 + y1) / 2 == pytest.approx(top + share * (bottom - top), abs=0.75), name
        if not axes["drawn"]:  # the waveform
            continue
        # The centre of the first and the last pixel is at the centre of what the pixel shows.
        steps = group if name in ("attention", "row") else 1
        for column in 0, axes["columns"] - 1:
            middle = (column * steps + (steps - 1) / 2) * axes["step"] * second
            share = (column + 0.5) / axes["columns"]
            x0, y0, x1, y1 = axes["drawn"]
            assert x0 + share * (x1 - x0) == pytest.approx(left + middle, abs=0.5), name
            if name == "attention":
                assert y0 + share * (y1 - y0) == pytest.approx(top + middle, abs=0.5)
    drawn, axis = look["histogram"]
    assert (axis[0], axis[2]) == pytest.approx((drawn[0], drawn[2]), abs=0.5)
    # The heads are to the right of the picture or below it, and each is a square.
    (square,) = (axes["plot"] for axes in look["axes"] if axes["name"] == "attention")
    assert square[2] - square[0] == pytest.approx(square[3] - square[1], abs=0.5)
    for x0, y0, x1, y1 in look["thumbs"]:
        assert x1 - x0 == pytest.approx(y1 - y0, abs=0.5)
        assert x0 >= square[2] or y0 >= square[3]
