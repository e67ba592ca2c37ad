"""A mistake of the encoder: the page shows right, wrong and difference, as Python computes them."""

import json

import numpy as np
import pytest
import torch

from melfront.encoder.report import figures, measure
from melfront.parity import mistakes
from melfront.parity.mistakes.steps import Steps
from melfront.parity.pages import what_if
from tests.encoder.report.conftest import needs_chromium
from tests.encoder.report.test_size import reached_by
from tests.encoder.report.test_what_if import numbers

pytestmark = needs_chromium
EVERY_TIME = ("tanh GELU", "no positions")  # the others are slow tests


@pytest.fixture(scope="module")
def of_encoder(seen, model):
    return {made[0]["name"]: made for made in what_if.of_encoder(seen, model)}


def changes(right, wrong, seen, config):
    """The encoder's pictures in which a colour is another one."""
    drawn = figures.pictures(seen, config)
    found = set()
    after = figures.of_states(wrong.states, seen)
    for name, x in figures.of_states(right.states, seen).items():
        low, high = drawn[name].low, drawn[name].high
        a, b = (np.clip(y, low, high) for y in (x, after[name]))
        if np.abs(a - b).max() > (high - low) / 127:
            found.add(name)
    return found


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in EVERY_TIME else pytest.mark.slow) for n in what_if.MADE],
)
def test_a_mistake_of_the_encoder(shared_tab, of_encoder, seen, model, name):
    entry, right, wrong = of_encoder[name]
    assert dict(entry["noise"])["ln_post"] > 10
    first = next(stage for stage, off in entry["noise"] if off > 1)
    assert list(right.states).index(first) <= 5 or name == "no final norm"
    tab = shared_tab
    before = tab.evaluate("pictures.after.image.src")
    tab.select_option("#mistake", name)
    tab.wait_for_function(f"pictures.after.image.src !== {json.dumps(before)}")
    shown = tab.evaluate("OF_ENCODER.filter((p) => pictures[p.name].image.src !== p.src)")
    drawn = tab.evaluate("page.mistakes.filter(({ pictures }) => pictures)")
    others = changes(right, wrong, seen, model.config)
    assert others <= {picture["name"] for picture in shown}
    assert others or name == "tanh GELU"  # thousands of units of noise, and hardly a colour
    assert set(next(e for e in drawn if e["name"] == name)["pictures"]) == set(reached_by(name))
    rows = tab.locator("#noise tr")
    assert rows.count() == len(entry["noise"])
    for shown, (stage, _) in zip(rows.all_inner_texts(), entry["noise"], strict=True):
        assert shown.split("\t")[0] == stage
    tab.locator("[name=view][value=difference]").check()
    tab.wait_for_function("pictures.after.palette === 'berlin' && tried.view === 'difference'")
    tab.evaluate("look('after')")
    tab.wait_for_function("stored.after")
    apart = wrong.states["ln_post"] - right.states["ln_post"]
    size = tab.evaluate("pictures.after.high")
    kept = np.linspace(0, 383, figures.ROWS).round().astype(int)
    beyond = np.abs(apart[:, kept]) > size
    assert 0 < beyond.mean() < 0.0051
    for row, position in (5, 10), (40, 203):
        value = tab.evaluate(f"stored.after.at({position}, {row})")
        assert value == pytest.approx(
            np.clip(apart[position, kept[row]], -size, size), abs=1.01 * size / 127
        )
    tab.locator("[name=view][value=wrong]").check()
    tab.select_option("#mistake", "")
    tab.wait_for_function(f"pictures.after.image.src === {json.dumps(before)}")


@pytest.mark.parametrize("head", [0, 5])
def test_attention_with_a_mistake(shared_tab, of_encoder, seen, head):
    """Right, wrong and difference, to a step of each palette."""
    _, right, wrong = of_encoder["no positions"]
    tab, own = shared_tab, seen.attention.group
    low = figures.faintest(own, 1500)

    def logarithm(maps):
        return np.log10(np.maximum(maps.shares[0, head] * own / maps.group, 10**low))

    def levels(view, palette):
        tab.locator(f"[name=view][value={view}]").check()
        tab.wait_for_function(f"(page.attention.palette ?? 'attention') === {palette!r}")
        tab.wait_for_function(f"shares && chosen.head === {head} && tried.view === {view!r}")
        return numbers(tab, "shares.levels").reshape(tab.evaluate("[shares.rows, shares.columns]"))

    tab.evaluate(f"turn('head', {head} - chosen.head)")
    before = levels("wrong", "attention")
    assert before.shape == seen.attention.shares.shape[2:]
    tab.select_option("#mistake", "no positions")
    tab.wait_for_function(f"page.attention.group === {wrong.attention.group}")
    expected = 63 * (logarithm(wrong.attention) / -low + 1)
    got = levels("wrong", "attention")
    assert np.abs(got - np.clip(expected, 0, 63)).max() < 0.51
    assert np.abs(got - 63 * (logarithm(right.attention) / -low + 1)).max() > 5
    apart = logarithm(wrong.attention) - logarithm(right.attention)
    got = levels("difference", "berlin")
    size = tab.evaluate("page.attention.high")
    assert np.abs(got - np.clip(127 * (apart / size + 1) / 2, 0, 127)).max() < 0.51
    tab.locator("#attention-section").scroll_into_view_if_needed()
    tab.locator("[data-text=share]", has_text="times as much").wait_for()
    assert np.array_equal(levels("right", "attention"), before)
    tab.locator("[name=view][value=wrong]").check()
    tab.select_option("#mistake", "")
    tab.wait_for_function("!document.documentElement.classList.contains('changed')")


@pytest.mark.parametrize("name", ["scores not scaled", "causal mask", "heads interleaved"])
def test_attention_is_that_of_the_whole_pipeline(seen, model, name):
    """The page computes the queries in view alone, and the catalogue all of them."""
    entry = mistakes.find(name)
    mel = torch.from_numpy(seen.front["features"]).float()[None]
    whole = Steps(entry, model, {"features": mel})["block.1.attn.weights"][0]
    got = what_if.reached(entry, seen, model).attention
    expected = measure.pool(whole[:, : seen.in_view, : seen.in_view], got.group)
    assert np.allclose(got.shares[1], expected, atol=1e-6)
