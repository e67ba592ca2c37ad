"""Right ports in fewer bits are never called wrong: products, quantised weights, both.

The slow test makes 300 runs more, with the ports of `test_right_ports` well above 1,000.
"""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional

import melfront
from melfront import parity
from melfront.encoder import EncoderConfig, WhisperEncoder, ops
from melfront.parity.arithmetic.products import FORMATS, products, quantised
from melfront.parity.comparison.fewer_bits import FEWER_BITS
from melfront.parity.pipeline import load_model
from tests.signals import Signal, signals

MODELS = {
    "toy": load_model("formula:toy"),
    "blocks of 32 fit": WhisperEncoder.from_formula(
        EncoderConfig(
            n_mels=11,
            n_audio_ctx=53,
            n_audio_state=96,
            n_audio_head=3,
            n_audio_layer=2,
            n_audio_mlp=160,
        )
    ),
}
PRODUCTS = ("float16", "tf32", "bfloat16")
PLACES = ("everywhere", "results too", "not in attention", "in the linear maps", "GELU too")
WEIGHTS = ("none", "q8_0", "q5_0", "q4_0", "q5_1", "q4_1", "int8", "int8-tensor")


def rounding(kind: str, place: str) -> dict[str, object]:
    """Ops that round as one port or another does; where they do, right ports differ."""
    every = products(kind)
    if place == "results too":
        return products(kind, results=True)
    if place == "in the linear maps":
        return {"linear": every["linear"]}
    if place == "everywhere":
        return every
    some = {slot: every[slot] for slot in ("linear", "conv1d")}
    if place == "GELU too":
        r = FORMATS[kind]
        some["gelu"] = lambda x: r(functional.gelu(r(x)))
    return some


@dataclass(frozen=True)
class FewerBitsCase:
    model: str
    signal: Signal
    kind: str
    place: str
    weights: str
    asked: bool

    def check(self) -> None:
        model = MODELS[self.model]
        config = model.config
        pad_to = config.n_frames / 100
        audio = self.signal.array()[: config.n_frames * 160]
        mel = torch.from_numpy(melfront.log_mel(audio, n_mels=config.n_mels, pad_to=pad_to))[None]
        port = model if self.weights == "none" else quantised(model, self.weights)
        with torch.no_grad(), ops.using(**rounding(self.kind, self.place)):
            out = port(mel).last_hidden_state
        options = {"computed_in": self.kind, "quantised": self.weights} if self.asked else {}
        report = parity.compare(
            {"last_hidden_state": out}, audio=audio, model=model, pad_to=pad_to, **options
        )
        if self.asked:
            assert report.ok, report
        # Not every combination is recognised. None is called a mistake, but for what it is.
        named = report.diagnosis.named if report.diagnosis else []
        assert {entry.name for n in named for entry in n.entries} <= {*FEWER_BITS}, report


def cases() -> st.SearchStrategy[FewerBitsCase]:
    return st.builds(
        FewerBitsCase,
        model=st.sampled_from(sorted(MODELS)),
        signal=signals(1.06, min_samples=1600),
        kind=st.sampled_from(PRODUCTS),
        place=st.sampled_from(PLACES),
        weights=st.one_of(st.just("none"), st.sampled_from(WEIGHTS)),
        asked=st.booleans(),
    )


@given(case=cases())
@settings(max_examples=5, deadline=None)
def test_right_in_fewer_bits(case):
    case.check()


@pytest.mark.slow
@given(case=cases())
@settings(max_examples=300, deadline=None)
def test_right_in_fewer_bits_at_length(case):
    case.check()
