"""How fast is it? Front end, encoder and Triton kernels, against the limits of the card."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import melfront
from melfront import encoder
from melfront.backends.cuda_graph import Graphed
from melfront.encoder import WhisperEncoder, graphed

from ..speed.encoder import in_transformers
from ..speed.encoder import transformers as transformers_encoder
from .numbers import (
    KINDS,
    N_MELS,
    cast,
    formula_on,
    thirty_seconds_of_speech,
)
from .rows import Calls, Rows, rms, tf32

EXAMPLES = Path(__file__).parents[1] / "examples"
TF32 = "TF32"  # float32 tensors, of whose products each factor keeps 10 bits
SLOTS = ("layer_norm", "mlp", "attention", "log_mel")


def roofs(r: Rows) -> dict[str, float]:
    """TFLOP/s of a large product in each kind, and GB/s of a copy."""
    n = 8192 if r.on_gpu else 512
    found = {}
    for kind, dtype in {**KINDS, TF32: torch.float32}.items():
        tf32(kind == TF32)
        x, y = (torch.randn(n, n, device=r.device).to(dtype) for _ in range(2))
        if dtype != torch.float16 or r.on_gpu:
            found[kind] = 2e-9 * n**3 / r.times({"": partial(torch.mm, x, y)}, 0.3)[""][1]
    tf32(False)
    x = torch.randn(n * n * 4, device=r.device)
    y = torch.empty_like(x)
    copy = 8e-6 * x.numel() / r.times({"": lambda: y.copy_(x)}, 0.3)[""][1]
    r.add("roofs", copy_GBs=copy, **{f"{kind}_TFLOPs": rate for kind, rate in found.items()})
    return found


def in_triton() -> Callable[[Tensor], Tensor]:
    from ..examples import log_mel_triton

    return partial(log_mel_triton.log_mel, n_mels=N_MELS)


def frontend(r: Rows, batch: int) -> None:
    speech = torch.from_numpy(thirty_seconds_of_speech())
    clips = torch.stack([speech.roll(1009 * i) for i in range(batch)]).to(r.device)
    truth = melfront.log_mel(clips[:4].double())
    ours, theirs = melfront.LogMel(N_MELS), formula_on(r.device, torch.float32)
    calls: Calls = {"melfront": partial(ours, clips), "transformers": partial(theirs, clips)}
    if r.on_gpu:
        compiled: dict[str, Callable[[Tensor], Tensor]] = {
            "melfront": torch.compile(ours, dynamic=False),
            "transformers": torch.compile(theirs, dynamic=False),
        }
        plain: dict[str, Callable[[Tensor], Tensor]] = {"melfront": ours, "transformers": theirs}

        def add(name: str, make: Callable[[], Callable[[Tensor], Tensor]]) -> None:
            r.part("frontend", lambda: calls.update({name: partial(make(), clips)}))

        for name in plain:
            add(f"{name}, graph", partial(Graphed, plain[name], clips))
            add(f"{name}, compiled, graph", partial(Graphed, compiled[name], clips))
        add("Triton kernel", in_triton)
        add("Triton kernel, graph", lambda: Graphed(in_triton(), clips))
    times = r.times(calls, 1.0 if r.on_gpu else 0.1)
    for name, call in calls.items():
        error = call()[:4].double() - truth
        one, among = times[name]
        r.add(
            "frontend",
            batch=batch,
            who=name,
            one_call_us=1e3 * one,
            us_a_clip=1e3 * among / batch,
            rms=rms(error),
            max=float(error.abs().max()),
            GB=r.memory(call),
        )


def flops(c: encoder.EncoderConfig) -> float:
    """Floating-point operations of the products and convolutions of a clip."""
    n_ctx, state, inner = c.n_audio_ctx, c.n_audio_state, c.n_audio_mlp
    stem = 2 * 3 * c.n_mels * state + 3 * state * state
    block = 4 * state * state + 2 * n_ctx * state + 2 * state * inner
    return 2.0 * n_ctx * (stem + c.n_audio_layer * block)


def compiled(model: WhisperEncoder) -> WhisperEncoder:
    for block in model.blocks:  # what is compiled for the first serves all
        block.compile(dynamic=False)
    return model


def compiled_transformers(model: WhisperEncoder, mel: Tensor) -> Graphed:
    theirs = in_transformers(model)
    for layer in theirs.layers:
        layer.compile(dynamic=False)
    return Graphed(lambda x: theirs(x).last_hidden_state, mel)


def encoders(r: Rows, model: WhisperEncoder, kind: str, batch: int, roof: float) -> None:
    dtype = KINDS.get(kind, torch.float32)
    tf32(kind == TF32)
    low, config = cast(model, dtype), model.config
    clip = melfront.log_mel(melfront.load_audio("sample"), n_mels=config.n_mels)
    mel = torch.from_numpy(clip).to(r.device, dtype).expand(batch, -1, -1).contiguous()
    mel += 0.01 * torch.randn(batch, 1, 1, device=r.device, dtype=dtype)  # no two alike
    functions = {
        "melfront": lambda x: low(x).last_hidden_state,
        "transformers": transformers_encoder(low),
    }
    calls: Calls = {name: partial(function, mel) for name, function in functions.items()}
    calls["transformers, eager"] = partial(transformers_encoder(low, "eager"), mel)
    if r.on_gpu:

        def add(name: str, make: Callable[[], Callable[[Tensor], Tensor]]) -> None:
            r.part("encoder", lambda: calls.update({name: partial(make(), mel)}))

        add("melfront, graph", lambda: graphed(low, batch))
        add("transformers, graph", lambda: Graphed(functions["transformers"], mel))
        if kind == "bfloat16":
            add("melfront, compiled, graph", lambda: graphed(compiled(cast(low, dtype)), batch))
            add("transformers, compiled, graph", lambda: compiled_transformers(low, mel))
    times = r.times(calls, 1.5 if r.on_gpu else 0.1)
    for name, call in calls.items():
        one, among = times[name]
        rate = 1e-9 * flops(config) * batch / among
        r.add(
            "encoder",
            dtype=kind,
            batch=batch,
            who=name,
            one_call_ms=one,
            ms_a_clip=among / batch,
            TFLOPs=rate,
            of_roof=rate / roof,
            GB=r.memory(call),
        )
    tf32(False)


def kernels(r: Rows) -> None:
    """The Triton kernels of `examples`, proved and timed by the harness, each by a process."""
    for slot in SLOTS:
        r.part("kernels", partial(kernel, r, slot), 45)


def kernel(r: Rows, slot: str) -> None:
    file = EXAMPLES / f"{slot}_triton.py"
    options = ["--device", str(r.device), "--size", "base", "--seconds", "1", "--no-whole"]
    command = [sys.executable, "-m", "melfront.benchmarks", "kernel", slot, str(file), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    print(done.stdout)
    said = (done.stdout.strip() or done.stderr.strip() or "nothing").splitlines()
    r.add("kernels", slot=slot, status=done.returncode, last=said[-1][:160])
