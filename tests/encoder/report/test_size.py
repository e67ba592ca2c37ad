"""The page stays small, whatever the model and the clip."""

import numpy as np

from melfront.encoder import SIZES, report
from melfront.encoder.report import blocks, figures, measure, mistakes
from melfront.parity.pages import what_if
from tests.encoder.report.conftest import ABOUT


def test_worst_case_of_large_v3_is_under_15_mb(monkeypatch):
    """Noise in every tensor of 32 blocks of 20 heads: no picture can be compressed."""
    config = SIZES["large-v3"]
    rng = np.random.default_rng(0)
    shape = (config.n_audio_layer, config.n_audio_head)
    groups = -(-1500 // (group := int(np.ceil(1500 / np.sqrt(measure.PIXELS / 640)))))
    power, log = rng.uniform(0, 1, (3000, 201)), rng.uniform(-10, 2, (128, 3000))

    def states(*shape):
        return rng.normal(size=shape).astype(np.float32)

    seen = measure.Seen(
        audio=rng.uniform(-1, 1, 480_000).astype(np.float32),
        front={
            "power": 10 ** (12 * power),
            "log": log,
            "features": log,
            "padded": np.empty(480_400),
            "windowed": np.empty(0),
        },
        mask=np.ones(3000, dtype=np.int32),
        stem={
            **{name: states(1280, 3000) for name in ("conv1", "gelu1")},
            **{name: states(1280, 1500) for name in ("conv2", "gelu2")},
            "positions": states(1500, 1280),
        },
        norm=np.exp(states(33, 1500)),
        cosine=rng.uniform(-1, 1, (32, 1500)),
        attention=measure.AttentionMaps(
            10 ** rng.uniform(-4, 0, (*shape, groups, groups)),
            group,
            *rng.uniform(size=(2, *shape)),
        ),
        before=states(1500, 1280),
        after=states(1500, 1280),
        in_view=1500,
        inside=inside(config, rng),
        kernels=states(1280, 128, 3),
    )
    # A mistake's states take long to draw, and their sum: what is drawn of them is noise as well.
    right = {
        **{name: states(8, 3000) for name in ("conv1", "gelu1")},
        **{name: states(8, 1500) for name in ("conv2", "gelu2")},
        "norm": states(33, 1500),
        "cosine": states(32, 1500),
        **{name: states(figures.ROWS, 1500) for name in ("table", "before", "after")},
    }
    coarse = int(np.ceil(1500 / np.sqrt(measure.COARSE_PIXELS / 640)))

    def attention():
        shares = 10 ** rng.uniform(-4, 0, (*shape, -(-1500 // coarse), -(-1500 // coarse)))
        return measure.AttentionMaps(shares, coarse, *rng.uniform(size=(2, *shape)))

    monkeypatch.setattr(
        mistakes,
        "of_states",
        lambda reached, _: right | {n: rng.permuted(right[n]) for n in reached if n in right},
    )
    noise = [(f"block.{i}.mlp_residual", 1e3) for i in range(32)]
    entry = {"name": "a mistake", "sentence": "", "seen": "", "stage": "conv1", "noise": noise}
    same = attention()
    encoder = [
        (
            entry,
            measure.Reached({}, same),
            measure.Reached(
                dict.fromkeys(reached_by(name)),
                attention() if "attention" in reached_by(name) else same,
            ),
        )
        for name in what_if.MADE
    ]
    made = mistakes.Mistakes(what_if.of_front_end(), encoder, 1e-7)
    html = report.html_of("noise", 480_000, seen, config, ABOUT, mistakes=made)
    assert len(html.encode()) < 15e6


def reached_by(name):
    """The pictures that a mistake can change: from its stage on, and what shares their scale."""
    blocks = ("norm", "cosine", "before", "after", "attention")
    return {
        "flipped kernel": ("conv1", "gelu1", "conv2", "gelu2", *blocks),
        "tanh GELU": ("conv1", "gelu1", "conv2", "gelu2", *blocks),
        "no positions": ("table", *blocks),
        "interleaved positions": ("table", *blocks),
        "no final norm": ("after",),
    }.get(name, blocks)


def inside(config, rng):
    """Noise in the blocks."""
    seen = blocks.Blocks(config.n_audio_layer, 1500)
    rows = np.arange(seen.most)
    drawn = rng.normal(size=(config.n_audio_layer, seen.most, 1500)).astype(np.float32)
    numbers = np.exp(rng.normal(size=(config.n_audio_layer, 1500)))
    return blocks.Inside(
        dict.fromkeys(blocks.DRAWN.values(), drawn),
        dict.fromkeys(blocks.DRAWN.values(), rows),
        dict.fromkeys(blocks.SIZES.values(), numbers),
        rng.uniform(size=numbers.shape),
    )
