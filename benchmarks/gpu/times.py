"""How fast is it? Front end, encoder and Triton kernels, against the limits of the card."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import melfront
from melfront import encoder
from melfront.backends.cuda_graph import Graphed
from melfront.encoder import WhisperEncoder, graphed
from melfront.parity.noise import rms

from ..speed.encoder import LastHiddenState, transformers
from ..speed.frontend import N_MELS, speech
from .numbers import KINDS, cast, formula_of_transformers
from .rows import Calls, Rows, tf32

EXAMPLES = Path(__file__).parents[1] / "examples"
TF32 = "TF32"  # float32 tensors, of whose products each factor keeps 10 bits
SLOTS = ("layer_norm", "mlp", "attention", "log_mel")
Function = Callable[[Tensor], Tensor]
Makers = dict[str, Callable[[], Function]]


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


def timed(
    r: Rows, part: str, makers: Makers, x: Tensor, seconds: float
) -> Iterator[tuple[str, Callable[[], Tensor], float, float]]:
    """Name, call and `Rows.times` of each function on x. One that cannot be made becomes a row."""
    calls: Calls = {}

    def add(name: str, make: Callable[[], Function]) -> None:
        calls[name] = partial(make(), x)

    for name, make in makers.items():
        r.part(part, partial(add, name, make))
    for name, (one, among) in r.times(calls, seconds if r.on_gpu else 0.1).items():
        yield name, calls[name], one, among


def in_triton() -> Function:
    from ..examples.gpu import log_mel_triton

    return partial(log_mel_triton.log_mel, n_mels=N_MELS)


def frontend(r: Rows, batch: int) -> None:
    audio = torch.from_numpy(speech(melfront.N_SAMPLES))
    clips = torch.stack([audio.roll(1009 * i) for i in range(batch)]).to(r.device)
    truth = melfront.log_mel(clips[:4].double())
    ours, theirs = melfront.LogMel(N_MELS), formula_of_transformers(r.device)

    def compiled(function: Function) -> Graphed:
        return Graphed(torch.compile(function, dynamic=False), clips)

    makers: Makers = {"melfront": lambda: ours, "transformers": lambda: theirs}
    if r.on_gpu:
        makers |= {
            "melfront, graph": lambda: Graphed(ours, clips),
            "melfront, compiled, graph": lambda: compiled(ours),
            "transformers, graph": lambda: Graphed(theirs, clips),
            "transformers, compiled, graph": lambda: compiled(theirs),
            "Triton kernel": in_triton,
            "Triton kernel, graph": lambda: Graphed(in_triton(), clips),
        }
    for name, call, one, among in timed(r, "frontend", makers, clips, 1.0):
        error = (call()[:4].double() - truth).cpu().numpy()
        r.add(
            "frontend",
            batch=batch,
            who=name,
            one_call_us=1e3 * one,
            us_a_clip=1e3 * among / batch,
            rms=rms(error),
            max=float(np.abs(error).max()),
            GB=r.memory(call),
        )


def flops(c: encoder.EncoderConfig) -> float:
    """Floating-point operations of the products and convolutions of a clip."""
    n_ctx, state, inner = c.n_audio_ctx, c.n_audio_state, c.n_audio_mlp
    stem = 2 * 3 * c.n_mels * state + 3 * state * state
    block = 4 * state * state + 2 * n_ctx * state + 2 * state * inner
    return 2.0 * n_ctx * (stem + c.n_audio_layer * block)


def compiled(function: LastHiddenState, blocks: str) -> LastHiddenState:
    for block in getattr(function.model, blocks):  # what is compiled for the first serves all
        block.compile(dynamic=False)
    return function


def encoders(r: Rows, model: WhisperEncoder, kind: str, batch: int, roof: float) -> None:
    dtype = KINDS.get(kind, torch.float32)
    tf32(kind == TF32)
    low, config = cast(model, dtype), model.config
    clip = melfront.log_mel(melfront.load_audio("sample"), n_mels=config.n_mels)
    mel = torch.from_numpy(clip).to(r.device, dtype).expand(batch, -1, -1).contiguous()
    mel += 0.01 * torch.randn(batch, 1, 1, device=r.device, dtype=dtype)  # no two alike
    ours, theirs = LastHiddenState(low), transformers(low)
    makers: Makers = {
        "melfront": lambda: ours,
        "transformers": lambda: theirs,
        "transformers, eager": lambda: transformers(low, "eager"),
    }
    if r.on_gpu:
        makers |= {
            "melfront, graph": lambda: graphed(low, batch),
            "transformers, graph": lambda: Graphed(theirs, mel),
        }
    if r.on_gpu and kind == "bfloat16":
        copy = LastHiddenState(cast(low, dtype))  # its blocks are compiled, those of `low` are not
        makers |= {
            "melfront, compiled, graph": lambda: Graphed(compiled(copy, "blocks"), mel),
            "transformers, compiled, graph": lambda: Graphed(
                compiled(transformers(low), "layers"), mel
            ),
        }
    for name, call, one, among in timed(r, "encoder", makers, mel, 1.5):
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


def kernel(r: Rows, slot: str) -> None:
    """A Triton kernel of `examples`, proved and timed by the harness, in a process of its own."""
    file = EXAMPLES / "gpu" / f"{slot}_triton.py"
    options = ["--device", str(r.device), "--size", "base", "--seconds", "1", "--no-whole"]
    command = [sys.executable, "-m", "melfront.benchmarks", "kernel", slot, str(file), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    print(done.stdout)
    said = (done.stdout.strip() or done.stderr.strip() or "nothing").splitlines()
    r.add("kernels", slot=slot, status=done.returncode, last=said[-1][:160])
