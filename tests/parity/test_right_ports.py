"""Correct ports pass: other libraries, dtypes, orders of summation, batches.

Three slow tests make 1,000 runs: 600 and 50 of front ends, 350 of encoders.
"""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings

import melfront
from melfront import encoder, parity
from melfront.encoder import EncoderConfig, WhisperEncoder
from melfront.parity.files.dump import dump
from melfront.parity.pipeline import load_model
from melfront.parity.signals import SIGNALS
from tests.encoder.peers import TOY
from tests.parity import ports
from tests.signals import Signal, signals

pytestmark = pytest.mark.filterwarnings("ignore:n_fft=400 is too large:UserWarning")

DTYPES = ("float32", "float32", "float16", "bfloat16")
# samples, ten frames: the noise of one or two frames is too few numbers to be meaningful.
SHORTEST = 1600


@dataclass(frozen=True)
class FrontEndCase:
    port: str
    signal: Signal
    spare: int  # padding in samples
    n_mels: int
    dtype: str

    def check(self) -> None:
        x = self.signal.array()
        length = len(x) + self.spare
        port = ports.FRONT_ENDS[self.port]
        mine = torch.from_numpy(np.array(port(x, length, self.n_mels)))
        mine = mine.to(getattr(torch, self.dtype))
        report = parity.compare({"features": mine}, audio=x, pad_to=length / 16_000)
        assert report.ok, report


def front_end_cases(max_seconds: float) -> st.SearchStrategy[FrontEndCase]:
    return st.builds(
        FrontEndCase,
        port=st.sampled_from(sorted(ports.FRONT_ENDS)),
        signal=signals(max_seconds, min_samples=SHORTEST),
        spare=st.one_of(st.just(0), st.integers(0, 8_009)),
        n_mels=st.sampled_from([80, 128]),
        dtype=st.sampled_from(DTYPES),
    )


@given(case=front_end_cases(2.0))
@settings(max_examples=40)
def test_front_end(case):
    case.check()


@pytest.mark.slow
@given(case=front_end_cases(6.0))
@settings(max_examples=600)
def test_front_end_at_length(case):
    case.check()


@pytest.mark.slow
@given(case=front_end_cases(31.0))
@settings(max_examples=50)
def test_front_end_of_half_a_minute(case):
    case.check()


@given(
    clips=st.lists(signals(0.5, min_samples=SHORTEST), min_size=1, max_size=4),
    n_mels=st.sampled_from([80, 128]),
    convention=st.sampled_from(["transformers", "openai"]),
)
@settings(max_examples=8)
def test_batch(clips, n_mels, convention):
    audio = [clip.array() for clip in clips]
    options = {"pad_to": 0.61, "convention": convention}
    mine = melfront.log_mel(audio, n_mels=n_mels, **options)
    report = parity.compare({"log_mel": mine}, audio=audio, **options)
    assert report.ok, report


@pytest.mark.parametrize("convention", sorted(melfront.CONVENTIONS))
def test_named_conventions(sample, convention):
    clip = sample[40_001:50_007]
    mine = melfront.log_mel(clip, convention=convention, pad_to=1.0)
    report = parity.compare({"features": mine}, audio=clip, convention=convention, pad_to=1.0)
    assert report.ok, report


@given(signal=signals(0.5, min_samples=SHORTEST), n_mels=st.sampled_from([80, 128]))
@settings(max_examples=8)
def test_matrix_dft_is_not_a_mistake(signal, n_mels):
    """A float32 DFT as a matrix product is up to three times noisier than an FFT, but not wrong."""
    x = signal.array()
    mine = ports.matrix_dft(x, len(x), n_mels)
    report = parity.compare({"features": mine}, audio=x, pad_to=None)
    assert report.stages[0].verdict in ("PASS", "NOISY"), report
    assert report.ok or not report.diagnosis.named, report


# --- the encoder ----------------------------------------------------------------------------------

OTHER = EncoderConfig(
    n_mels=11, n_audio_ctx=53, n_audio_state=78, n_audio_head=3, n_audio_layer=2, n_audio_mlp=61
)
MODELS = {
    "toy": load_model("formula:toy"),
    "toy-quiet": load_model("formula:toy-quiet"),
    "three blocks": WhisperEncoder.from_formula(TOY),
    "53 positions": WhisperEncoder.from_formula(OTHER),
}


@dataclass(frozen=True)
class EncoderCase:
    port: str
    model: str
    signals: tuple[Signal, ...]
    batched: bool
    dtype: str

    def check(self) -> None:
        model = MODELS[self.model]
        config = model.config
        pad_to = config.n_frames / 100
        clips = [s.array()[: config.n_frames * 160] for s in self.signals]
        audio = clips if self.batched else clips[0]
        mel = torch.from_numpy(melfront.log_mel(clips, n_mels=config.n_mels, pad_to=pad_to))
        mel = mel[: len(clips) if self.batched else 1].to(getattr(torch, self.dtype))
        port = ports.ENCODERS[self.port]
        if self.dtype != "float32" and self.port not in ("eager", "sdpa"):
            port = ports.ENCODERS["ours"]  # the others round partial sums to 16 bits
        out = port(ports.in_type(model, self.dtype), mel)
        report = parity.compare({"last_hidden_state": out}, audio=audio, model=model)
        assert report.ok, report


def encoder_cases() -> st.SearchStrategy[EncoderCase]:
    return st.builds(
        EncoderCase,
        port=st.sampled_from(sorted(ports.ENCODERS)),
        model=st.sampled_from(sorted(MODELS)),
        signals=st.lists(signals(1.06, min_samples=1), min_size=1, max_size=3).map(tuple),
        batched=st.booleans(),
        dtype=st.sampled_from(DTYPES),
    )


@given(case=encoder_cases())
@settings(max_examples=20)
def test_encoder(case):
    case.check()


@pytest.mark.slow
@given(case=encoder_cases())
@settings(max_examples=350)
def test_encoder_at_length(case):
    case.check()


def right_stages(name: str, dtype: str) -> dict[str, torch.Tensor]:
    """Every encoder stage of a correct port in this dtype."""
    config = MODELS[name].config
    audio = SIGNALS["toy"].make()[: config.n_frames * 160]
    mel = melfront.log_mel(audio, n_mels=config.n_mels, pad_to=config.n_frames / 100)
    model = ports.in_type(MODELS[name], dtype)
    trace = encoder.trace(model, torch.from_numpy(mel)[None].to(getattr(torch, dtype)))
    return {stage: tensor[0] for stage, tensor in trace.items()}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["toy", "toy-quiet"])
@pytest.mark.parametrize("sampled", [False, True])
def test_against_a_reference(tmp_path, name, dtype, sampled):
    """A reference states the noise of float32; 16-bit types have more."""
    clip, path = tmp_path / "clip.wav", tmp_path / "truth.npz"
    soundfile.write(clip, SIGNALS["toy"].make(), 16_000, subtype="FLOAT")
    dump(path, clip, f"formula:{name}", sample=sampled)
    report = parity.compare(right_stages(name, dtype), path)
    assert report.ok, report


@given(data=st.data(), name=st.sampled_from(sorted(MODELS)), dtype=st.sampled_from(DTYPES))
@settings(max_examples=10)
def test_forced(data, name, dtype):
    """With any subset of the stages; with few of them, each is many steps from the previous one."""
    stages = right_stages(name, dtype)
    wanted = data.draw(st.sets(st.sampled_from(list(stages)), min_size=1))
    given = {stage: tensor for stage, tensor in stages.items() if stage in wanted}
    audio = SIGNALS["toy"].make()
    report = parity.compare(given, audio=audio, model=MODELS[name], forced=True)
    assert report.ok, report


@pytest.mark.slow
@pytest.mark.parametrize("port", ["all", "eager"])
def test_encoder_of_tiny(port, sample):
    model = load_model("formula:tiny")
    mel = torch.from_numpy(melfront.log_mel(sample, n_mels=80))[None]
    out = ports.ENCODERS[port](model, mel)
    report = parity.compare({"last_hidden_state": out}, model=model)
    assert report.ok, report
