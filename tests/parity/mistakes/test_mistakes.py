"""Every mistake of the catalogue is found at its own stage and named, alone and in pairs."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

import melfront
from melfront import parity, variants
from melfront.conventions import TRANSFORMERS
from melfront.encoder import ops
from melfront.encoder.built_in import TOYS
from melfront.parity import mistakes
from melfront.parity.diagnosis.front_end import both
from melfront.parity.mistakes.chunks import CHUNKS
from melfront.parity.pipeline import load_model
from melfront.parity.signals import SIGNALS
from tests.parity.ports import front_end_dump

# Tried in this order until the mistake is named alone: no signal shows all of them.
ORDER = ("padded", "speech", "batch", "late", "quiet", "faint", "dc", "tone", "noise", "sample")


def names(report: parity.Report) -> list[str]:
    """The names of the matching mistakes, best first; for a pair, both names."""
    return [named.name for named in report.diagnosis.named] if report.diagnosis else []


def compare(stages, signal="padded", **options):
    clip = SIGNALS[signal]
    return parity.compare(stages, audio=clip.make(), pad_to=clip.pad_to, **options)


def one_in(count, entries, first=0):
    """Run every so-manieth entry always, the others only with the slow tests."""
    return [
        pytest.param(entry, id=entry.name, marks=[] if i % count == first else [pytest.mark.slow])
        for i, entry in enumerate(entries)
    ]


# --- front end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", one_in(3, mistakes.FRONT_END))
def test_front_end_mistake_is_named(entry):
    seen = []
    for signal in ORDER:
        clip = SIGNALS[signal]
        dump = front_end_dump(clip.make(), entry.convention(), pad_to=clip.pad_to)
        report = compare({"features": dump["features"]}, signal, n_mels=80)
        if report.ok:
            continue
        seen.append(names(report))
        assert entry.name in seen[-1], f"{signal}\n{report}"

        whole = compare(dump, signal, n_mels=80)
        assert whole.first_wrong.name == entry.stage, whole
        assert whole.first_wrong.verdict in ("WRONG", "SHAPE")
        # Of several decisions, the first wrong stage shows the first.
        shown = [n.entries[0].convention().upto(entry.stage) for n in whole.diagnosis.named]
        assert entry.convention().upto(entry.stage) in shown, whole
        if names(report) == [entry.name]:
            return
    pytest.fail(f"never named alone; named {seen}")


@pytest.mark.parametrize("dtype", [np.float16, "bfloat16"])
def test_front_end_mistake_is_named_in_16_bits(dtype):
    clip = SIGNALS["speech"]
    found = 0
    known = ("zero padding", "HTK mel scale", "natural logarithm", "tail of zeros", "no window")
    for name in known:
        features = front_end_dump(clip.make(), mistakes.find(name).convention(), pad_to=0.5)
        tensor = torch.from_numpy(features["features"])
        tensor = tensor.to(torch.bfloat16 if dtype == "bfloat16" else torch.float16)
        report = parity.compare({"features": tensor}, audio=clip.make(), pad_to=0.5)
        assert not report.ok, report
        found += names(report)[:1] == [name]
    assert found == len(known)


def test_indistinguishable_entries_are_named_together():
    dump = front_end_dump(
        SIGNALS["padded"].make(), mistakes.find("no clamp").convention(), pad_to=0.5
    )
    report = compare({"features": dump["features"]})
    assert set(names(report)) == {"no clamp", "maximum of each frame"}
    assert report.diagnosis.telling in (None, "clamped")
    assert " - or " in report.headline()


def random_pairs(count: int, seed: int):
    """Pairs of front-end mistakes of different stages that change different fields.

    Without chunks: those that keep a frame each have more frames than the search compares.
    """
    rng = random.Random(seed)
    entries = [entry for entry in mistakes.FRONT_END if entry not in CHUNKS]
    pairs: list = []
    while len(pairs) < count:
        pair = tuple(rng.sample(entries, 2))
        if pair[0].stage != pair[1].stage and both(TRANSFORMERS, pair) and pair not in pairs:
            pairs.append(pair)
    return pairs


def visible_alone(pair, clip) -> bool:
    """Whether each of the two changes the features that result from the other."""

    def features(convention):
        return variants.log_mel(clip.make(), n_mels=80, convention=convention, pad_to=clip.pad_to)

    two = features(both(TRANSFORMERS, pair))
    ones = [features(entry.convention()) for entry in pair]
    return all(x.shape != two.shape or np.abs(x - two).max() > 1e-3 for x in ones)


@pytest.mark.parametrize("count", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_two_mistakes_at_once_are_both_named(count):
    """For pairs of which both mistakes have an effect."""
    clip = SIGNALS["padded"]
    pairs = [pair for pair in random_pairs(4 * count, seed=7) if visible_alone(pair, clip)][:count]
    assert len(pairs) == count
    for pair in pairs:
        dump = front_end_dump(clip.make(), both(TRANSFORMERS, pair), pad_to=clip.pad_to)
        report = compare({"features": dump["features"]}, n_mels=80)
        # First, or tied for first: two clamps can give the same result on a clip.
        found = [set(named.entries) for named in report.diagnosis.named]
        assert set(pair) in found, f"{pair[0].name} + {pair[1].name}\n{report}"
        assert len(found) <= 2, report


def test_two_mistakes_in_text_and_json():
    pair = (mistakes.find("symmetric window"), mistakes.find("natural logarithm"))
    dump = front_end_dump(SIGNALS["padded"].make(), both(TRANSFORMERS, pair), pad_to=0.5)
    report = compare({"features": dump["features"]})
    assert "two mistakes at once" in report.headline()
    for entry in pair:
        assert entry.name in report.headline()
        assert entry.name in report.to_json()


# --- encoder --------------------------------------------------------------------------------------

AUDIO = SIGNALS["toy"].make()
MODELS = {name: load_model(f"formula:{name}") for name in TOYS}
MEL = torch.from_numpy(melfront.log_mel(AUDIO, n_mels=7, pad_to=0.22))[None]
HIDDEN = ("positions", "block.0.mlp_residual", "ln_post")  # what transformers returns
# A comparison takes fewer bits for right unless it is told otherwise.
FEWER_BITS = ("weights in bfloat16", "weights in float16", "weights in int8", "TF32 products")
EXACT = {"computed_in": "float32", "quantised": "none"}
BLOCKS = (*HIDDEN[:2], "block.1.mlp_residual", "ln_post")


def encoder_dump(entry, model) -> dict[str, np.ndarray]:
    seen: dict[str, np.ndarray] = {}

    def tap(stage, tensor):
        seen[stage] = tensor[0].numpy().copy()
        return tensor

    mistakes.run(entry, model, MEL, tap, n_audio=-(-len(AUDIO) // 320))
    return seen


@pytest.mark.parametrize("entry", one_in(9, mistakes.ENCODER))
def test_encoder_mistake_is_named(entry):
    bits = EXACT if entry.name in FEWER_BITS else {}
    for name, model in MODELS.items():
        dump = encoder_dump(entry, model)
        whole = parity.compare(dump, audio=AUDIO, model=model, **bits)
        if whole.ok or whole.first_wrong.verdict == "NOISY":
            continue
        last = parity.compare({"ln_post": dump["ln_post"]}, audio=AUDIO, model=model, **bits)
        assert names(last)[:1] == [entry.name], f"{name}\n{last}"
        assert whole.first_wrong.name == entry.stage, f"{name}\n{whole}"
        assert whole.first_wrong.verdict in ("WRONG", "SHAPE"), whole
        assert entry.name in names(whole)[:2], f"{name}\n{whole}"  # two may begin alike
        return
    pytest.fail("no model shows it")


@pytest.mark.parametrize("entry", one_in(9, mistakes.ENCODER, first=4))
def test_encoder_mistake_is_named_from_the_hidden_states(entry):
    """From the states that transformers returns, which lack the last block's own output."""
    bits = EXACT if entry.name in FEWER_BITS else {}
    for model in MODELS.values():
        dump = encoder_dump(entry, model)
        report = parity.compare({k: dump[k] for k in HIDDEN}, audio=AUDIO, model=model, **bits)
        if not report.ok and report.first_wrong.verdict != "NOISY":
            assert entry.name in names(report)[:2], report  # two may begin alike
            return
    pytest.fail("no model shows it")


def in_block(number: int, function):
    """An `mlp` that uses this GELU in one block."""
    calls = 0

    def mlp(x, *weights):
        nonlocal calls
        calls += 1
        if calls == 1 + number:
            with ops.using(gelu=function):
                return ops.mlp(x, *weights)
        return ops.mlp(x, *weights)

    return mlp


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("given", [HIDDEN, BLOCKS], ids=["hidden states", "block outputs"])
def test_mistake_in_one_block_is_named(block, given):
    model, seen = MODELS["toy"], {}

    def tap(stage, tensor):
        seen[stage] = tensor[0].numpy().copy()
        return tensor

    with ops.using(mlp=in_block(block, mistakes.find("tanh GELU").ops["gelu"])), torch.no_grad():
        model(MEL, tap=tap)
    report = parity.compare({stage: seen[stage] for stage in given}, audio=AUDIO, model=model)
    spoilt = f"block.{block}.mlp_residual"
    assert report.first_wrong.name == (spoilt if spoilt in given else "ln_post"), report
    assert names(report) == ["tanh GELU"], report


# A second each, and through the encoder all are alike.
@pytest.mark.parametrize("entry", one_in(24, mistakes.FRONT_END))
def test_front_end_mistake_is_named_from_the_hidden_state(entry):
    model = MODELS["toy"]
    features = front_end_dump(AUDIO, entry.convention(), n_mels=7, pad_to=0.22)["features"]
    if features.shape != MEL.shape[1:]:
        pytest.skip("the encoder does not take features of another shape")
    with torch.no_grad():
        out = model(torch.from_numpy(features)).last_hidden_state
    report = parity.compare({"last_hidden_state": out}, audio=AUDIO, model=model)
    if report.ok:
        pytest.skip("this signal does not show the mistake")
    assert entry.name in names(report), report


# --- unknown mistakes -----------------------------------------------------------------------------


def stretched(convention) -> np.ndarray:
    clip = SIGNALS["padded"]
    return variants.log_mel(clip.make(), n_mels=80, convention=convention, pad_to=clip.pad_to)


UNKNOWN = {
    "random": lambda truth: np.random.default_rng(5).normal(size=truth.shape),
    "0.3 dB louder": lambda _: stretched(replace(TRANSFORMERS, gain=10 ** (0.3 / 20))),
    "hop of 161": lambda _: stretched(replace(TRANSFORMERS, hop_length=161)),
    "dynamic range of 7": lambda _: stretched(replace(TRANSFORMERS, dynamic_range=7.0)),
    "zeros": np.zeros_like,
    "noisy": lambda truth: truth + np.random.default_rng(5).normal(0, 1e-3, truth.shape),
}


# The others are slow: each tries all pairs of mistakes.
SOON = ("0.3 dB louder", "hop of 161")
KINDS = [
    pytest.param(kind, marks=[] if kind in SOON else [pytest.mark.slow]) for kind in sorted(UNKNOWN)
]


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_mistake(kind):
    features = UNKNOWN[kind](stretched(TRANSFORMERS)).astype(np.float32)
    report = compare({"features": features}, n_mels=80)
    assert not report.ok
    assert names(report) == [], report
    assert "none of the known mistakes" in report.headline()
    assert report.diagnosis.nearest is None


@pytest.mark.parametrize(
    "stage",
    ["ln_post", *(pytest.param(s, marks=pytest.mark.slow) for s in ("block.1.attn.v", "gelu1"))],
)
def test_unknown_mistake_of_the_encoder(stage):
    model = MODELS["toy"]
    truth = parity.trace(AUDIO, model)[stage]
    mine = (truth * (1 + np.random.default_rng(5).normal(0, 1e-2, truth.shape))).astype("f4")
    report = parity.compare({stage: mine}, audio=AUDIO, model=model)
    assert report.first_wrong.name == stage
    assert names(report) == [], report
    assert report.diagnosis.nearest is None
