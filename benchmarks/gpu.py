"""python -m benchmarks gpu: everything that only a GPU can say, in one run of a few minutes.

Numbers first, then times, the dearest last. Each row is printed and written to gpu.json as soon as
it is measured, and each part has its own try: a run that is killed, or a part that fails, costs no
row of another. `--device cpu --size tiny` runs the same code without a GPU.

    # B clips  M mel bins  F frames  T positions  S state
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import encoder
import melfront
from encoder import WhisperEncoder, checkpoint, formula
from encoder.graphed import graphed
from melfront.cuda_graph import Graphed

from .speed.encoder import transformers as transformers_encoder

CHECKOUT = Path(__file__).parents[1]
KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TF32 = "TF32"  # float32 tensors, of whose products each factor keeps 10 bits
N_MELS = 128
BATCHES = {"frontend": (1, 16, 64, 256), "encoder": (1, 8, 32)}
SLOTS = ("layer_norm", "mlp", "attention", "log_mel")
Calls = dict[str, Callable[[], Tensor]]


class NoTime(Exception):
    pass


@dataclass
class Rows:
    """What was measured so far: printed, and written to gpu.json, row by row."""

    device: torch.device
    file: Path
    minutes: float
    start: float = field(default_factory=time.perf_counter)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def add(self, part: str, **row: Any) -> None:
        at = round(time.perf_counter() - self.start, 1)
        self.rows.append({"part": part, "at": at, **row})
        temporary = self.file.with_suffix(".part")
        temporary.write_text(json.dumps(self.rows, indent=1), encoding="utf-8")
        temporary.replace(self.file)
        values = (f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items())
        print(f"{at:6.1f} s  {part:9}", *values, flush=True)

    @contextmanager
    def part(self, name: str, seconds: float = 10.0) -> Iterator[None]:
        """A part that is thought to take this long. What it raises becomes a row."""
        try:
            if time.perf_counter() - self.start + seconds > 60 * self.minutes:
                raise NoTime(f"no {seconds:g} s left of --minutes {self.minutes:g}")
            yield
        except NoTime as error:
            self.add(name, skipped=str(error))
        except Exception as error:
            traceback.print_exc()
            self.add(name, failed=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def times(self, calls: Calls, seconds: float) -> dict[str, tuple[float, float]]:
        """Milliseconds of one call with its wait, and of a call among many; medians of rounds.

        The contestants take turns, so that a clock that drifts drifts for all.
        """
        count, waited, among = {}, {}, {}
        for name, call in calls.items():
            for _ in range(3):
                call()
            self.wait()
            one = self.clock(call, 1)
            count[name] = max(2, min(200, int(0.02 / one)))
            waited[name], among[name] = [], []
        end = time.perf_counter() + seconds
        while len(waited[name]) < 5 or time.perf_counter() < end:
            for name, call in calls.items():
                waited[name].append(self.clock(call, 1))
                among[name].append(self.clock(call, count[name]))
        median = statistics.median
        return {n: (1e3 * median(waited[n]), 1e3 * median(among[n])) for n in calls}

    def clock(self, call: Callable[[], Tensor], n: int) -> float:
        """Seconds a call, of n calls in a row and one wait."""
        self.wait()
        start = time.perf_counter()
        for _ in range(n):
            call()
        self.wait()
        return (time.perf_counter() - start) / n

    def memory(self, call: Callable[[], Tensor]) -> float:
        """GB that a call allocates at its peak, on a GPU."""
        if not self.on_gpu:
            return 0.0
        self.wait()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        self.wait()
        return (torch.cuda.max_memory_allocated() - before) / 1e9


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def tf32(on: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on


# --- what runs where ------------------------------------------------------------------------------


def machine(r: Rows) -> None:
    packages = ("torch", "transformers", "triton", "numpy")
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    name = torch.cuda.get_device_name(r.device) if r.on_gpu else "no GPU"
    r.add("machine", gpu=name, cores=os.cpu_count(), date=str(date.today()), **versions)


def start_tests(r: Rows) -> subprocess.Popen[bytes] | None:
    """The tests that are marked gpu, several at a time, beside what needs no clock."""
    if not r.on_gpu or not (CHECKOUT / "tests").is_dir():
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu and not slow", "tests"]
    try:
        metadata.version("pytest-xdist")
        command += ["-n", "8"]
    except metadata.PackageNotFoundError:
        pass
    log = r.file.with_name("pytest.log").open("wb")
    return subprocess.Popen(command, cwd=CHECKOUT, stdout=log, stderr=subprocess.STDOUT)


def finish_tests(r: Rows, tests: subprocess.Popen[bytes] | None) -> None:
    if tests is None:
        return
    try:
        tests.wait(timeout=max(10.0, 60 * r.minutes / 2 - (time.perf_counter() - r.start)))
    finally:
        tests.kill()
    lines = r.file.with_name("pytest.log").read_text(encoding="utf-8").strip().splitlines()
    r.add("tests", status=tests.returncode, last=lines[-1] if lines else "")
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            r.add("tests", failed_test=line[:200])


def formula_encoder(config: encoder.EncoderConfig, device: torch.device) -> WhisperEncoder:
    """`WhisperEncoder.from_formula`, each tensor by a core of its own."""

    def made(named: tuple[str, tuple[int, ...]]) -> tuple[str, Tensor]:
        return named[0], torch.from_numpy(formula.weight(*named)).to(device)

    with ThreadPoolExecutor() as pool:
        return WhisperEncoder.from_weights(
            config, dict(pool.map(made, checkpoint.shapes(config).items()))
        )


def cast(model: WhisperEncoder, dtype: torch.dtype) -> WhisperEncoder:
    weights = {name: x.to(dtype) for name, x in model.state_dict().items()}
    return WhisperEncoder.from_weights(model.config, weights)


# --- numbers --------------------------------------------------------------------------------------


def formula_of_transformers(bank: Tensor, window: Tensor, clips: Tensor) -> Tensor:
    """What WhisperFeatureExtractor computes of clips of 30 s (B, N), left on the device."""
    spectrum = torch.stft(clips, 400, 160, window=window, return_complex=True)
    mel = bank @ spectrum[..., :-1].abs() ** 2  # (B, M, F)
    log = mel.clamp(min=1e-10).log10()
    return (torch.maximum(log, log.amax((1, 2), keepdim=True) - 8) + 4) / 4


def formula_on(device: torch.device, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    bank = torch.from_numpy(melfront.mel_filters(N_MELS).copy()).to(device, dtype)
    window = torch.hann_window(400, dtype=dtype, device=device)
    return partial(formula_of_transformers, bank, window)


def signals() -> dict[str, np.ndarray[Any, Any]]:
    """Clips of 30 s."""
    t = np.arange(melfront.N_SAMPLES) / melfront.SAMPLE_RATE
    return {
        "speech": thirty_seconds_of_speech(),
        "tone": np.sin(2 * np.pi * 1234.5 * t).astype(np.float32),
        "noise": np.random.default_rng(0).uniform(-1, 1, t.size).astype(np.float32),
        "silence": np.zeros(t.size, np.float32),
    }


def thirty_seconds_of_speech() -> np.ndarray[Any, Any]:
    clip = melfront.load_audio("sample")
    return np.resize(clip, melfront.N_SAMPLES).astype(np.float32)


def features(r: Rows) -> None:
    """The front end on the device against the oracle, in units of transformers' own error there."""
    for name, clip in signals().items():
        truth = torch.from_numpy(melfront.oracle.log_mel(clip, n_mels=N_MELS))
        x = torch.from_numpy(clip).to(r.device)
        exact = melfront.log_mel(x.double()).cpu() - truth
        ours = melfront.log_mel(x).cpu() - truth
        theirs = formula_on(r.device, torch.float32)(x[None])[0].cpu() - truth
        # Four roundings at the size of the features: what no float32 formula does better than.
        least = 4 * 2.0**-24 * rms(truth)
        r.add(
            "features",
            signal=name,
            float64_max=float(exact.abs().max()),
            rms=rms(ours),
            transformers_rms=rms(theirs),
            noise=rms(ours) / max(rms(theirs), least),
        )


def hidden_states(r: Rows, name: str, model: WhisperEncoder) -> None:
    """All hidden states against float64 on the device, in units of transformers' own error."""
    clip = melfront.log_mel(melfront.load_audio("sample"), n_mels=model.config.n_mels)
    mel = torch.from_numpy(clip)[None].to(r.device)  # (1, M, F)

    def states(model: Any, mel: Tensor) -> list[Tensor]:
        return [x.double() for x in model(mel, output_hidden_states=True).hidden_states]

    for kind, dtype in KINDS.items():
        if dtype == torch.float16 and not r.on_gpu:
            continue  # torch computes it on few CPUs, and on those for minutes
        low, given = cast(model, dtype), mel.to(dtype)
        # The truth of the weights and features as they are in this type.
        truth = states(cast(low, torch.float64), given.double())
        ours = states(low, given)
        for attention in ("sdpa", "eager"):
            theirs = states(in_transformers(low, attention), given)
            noise = [rms(a - t) / rms(b - t) for a, b, t in zip(ours, theirs, truth, strict=True)]
            r.add(
                "states",
                model=name,
                dtype=kind,
                unit=f"transformers' {attention}",
                states=len(noise),
                worst_noise=max(noise[1:]),  # the first is positions added: nothing to differ in
                state=int(np.argmax(noise[1:])) + 1,
                last_noise=noise[-1],
                relative_error=rms(ours[-1] - truth[-1]) / rms(truth[-1]),
            )


def in_transformers(model: WhisperEncoder, attention: str) -> Any:
    """transformers' WhisperEncoder around the same tensors."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder as Theirs

    with torch.device("meta"):
        theirs = Theirs(WhisperConfig(**model.config.to_hf(), attn_implementation=attention))
    weights = {checkpoint.hf_name(name): x for name, x in model.state_dict().items()}
    theirs.load_state_dict(weights, assign=True)
    return theirs.eval()


def against_the_oracle(r: Rows, model: WhisperEncoder) -> None:
    """float64 on the device, which is the truth above, against the oracle: the first two blocks."""
    config = replace(model.config, n_audio_layer=2)
    names = checkpoint.shapes(config)
    weights = {n: x.double() for n, x in model.state_dict().items() if n in names}
    clip = melfront.oracle.log_mel(melfront.load_audio("sample"), n_mels=config.n_mels)
    truth = encoder.oracle.encode(clip, {n: x.cpu().numpy() for n, x in weights.items()}, config)
    mel = torch.from_numpy(clip)[None].to(r.device)
    ours = WhisperEncoder.from_weights(config, weights)(mel).last_hidden_state[0].cpu().numpy()
    r.add("oracle", float64_max=float(np.abs(ours - truth).max()), size=float(np.abs(truth).max()))


# --- times ----------------------------------------------------------------------------------------


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


def frontend(r: Rows, batch: int) -> None:
    speech = torch.from_numpy(thirty_seconds_of_speech())
    clips = torch.stack([speech.roll(1009 * i) for i in range(batch)]).to(r.device)
    truth = melfront.log_mel(clips[:4].double())
    ours, theirs = melfront.LogMel(N_MELS), formula_on(r.device, torch.float32)
    calls: Calls = {"melfront": partial(ours, clips), "transformers": partial(theirs, clips)}
    if r.on_gpu:
        compiled = {
            "melfront": torch.compile(ours, dynamic=False),
            "transformers": torch.compile(theirs, dynamic=False),
        }
        for name, function in {"melfront": ours, "transformers": theirs}.items():
            with r.part("frontend"):
                calls[f"{name}, graph"] = partial(Graphed(function, clips), clips)
            with r.part("frontend"):
                calls[f"{name}, compiled, graph"] = partial(Graphed(compiled[name], clips), clips)
        with r.part("frontend"):
            from .examples import log_mel_triton

            log_mel_triton.log_mel(clips, N_MELS)
            calls["Triton kernel"] = partial(log_mel_triton.log_mel, clips, N_MELS)
            in_triton = Graphed(partial(log_mel_triton.log_mel, n_mels=N_MELS), clips)
            calls["Triton kernel, graph"] = partial(in_triton, clips)
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
        with r.part("encoder"):
            calls["melfront, graph"] = partial(graphed(low, batch), mel)
        with r.part("encoder"):
            calls["transformers, graph"] = partial(Graphed(functions["transformers"], mel), mel)
    if r.on_gpu and kind == "bfloat16":
        with r.part("encoder", 40):
            fast = cast(low, dtype)
            for block in fast.blocks:  # compiled once for all of them
                block.compile(dynamic=False)
            calls["melfront, compiled, graph"] = partial(graphed(fast, batch), mel)
        with r.part("encoder", 40):
            theirs = in_transformers(low, "sdpa")
            for layer in theirs.layers:
                layer.compile(dynamic=False)
            run = Graphed(lambda x: theirs(x).last_hidden_state, mel)
            calls["transformers, compiled, graph"] = partial(run, mel)
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
        with r.part("kernels", 45):
            file = Path(__file__).with_name("examples") / f"{slot}_triton.py"
            options = ["--device", str(r.device), "--size", "base", "--seconds", "1", "--no-whole"]
            command = [sys.executable, "-m", "benchmarks", "kernel", slot, str(file), *options]
            done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
            print(done.stdout)
            said = (done.stdout.strip() or done.stderr.strip() or "nothing").splitlines()
            r.add("kernels", slot=slot, status=done.returncode, last=said[-1][:160])


# --- the command ----------------------------------------------------------------------------------


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu", description="Everything that only a GPU can say."
    )
    add = parser.add_argument
    add("--device", default="cuda", help="default: cuda; cpu runs the same code without a GPU")
    add("--size", choices=sorted(encoder.SIZES), default="large-v3", help="default: large-v3")
    add("--trained", metavar="PATH", help="a checkpoint whose hidden states are checked as well")
    add("--minutes", type=float, default=8.0, help="no part starts that would end later; default 8")
    add("-o", "--output", metavar="DIR", type=Path, default=Path(), help="where gpu.json goes")
    add("--markdown", metavar="FILE", type=Path, help="write the table there too")
    return parser.parse_args(arguments)


@torch.inference_mode()
def main(arguments: list[str]) -> int:
    """Measure. Returns 0, 1 if a part failed, 2 for a device that is not there."""
    args = parse(arguments)
    try:
        device = torch.zeros(1, device=args.device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        print(f"python -m benchmarks gpu: --device {args.device}: {reason}", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    tf32(False)
    args.output.mkdir(parents=True, exist_ok=True)
    r = Rows(device, args.output / "gpu.json", args.minutes)
    machine(r)
    tests = start_tests(r)
    config = encoder.SIZES[args.size]
    model = formula_encoder(config, device)
    r.add("weights", size=args.size, blocks=config.n_audio_layer)
    with r.part("features"):
        features(r)
    with r.part("oracle"):
        against_the_oracle(r, model)
    with r.part("states"):
        hidden_states(r, args.size, model)
    if args.trained:
        with r.part("states"):
            trained = WhisperEncoder.from_pretrained(args.trained, device=device)
            hidden_states(r, Path(args.trained).name, trained)
    with r.part("tests"):
        finish_tests(r, tests)
    rates: dict[str, float] = {}
    with r.part("roofs"):
        rates = roofs(r)
    for batch in BATCHES["frontend"] if r.on_gpu else (1,):
        with r.part("frontend"):
            frontend(r, batch)
    with r.part("kernels"):
        if r.on_gpu:
            kernels(r)
    kinds = ("bfloat16", "float16", "float32", TF32) if r.on_gpu else ("float32",)
    for kind, batch in itertools.product(kinds, BATCHES["encoder"] if r.on_gpu else (1,)):
        if batch == 32 and KINDS.get(kind, torch.float32) == torch.float32:
            continue  # seconds a round, and nothing that a batch of 8 does not say
        with r.part("encoder", 20):
            encoders(r, model, kind, batch, rates.get(kind, float("nan")))
    lines = table(r.rows, ["$ python -m benchmarks gpu " + " ".join(arguments)])
    print("", *lines, sep="\n")
    if args.markdown:
        args.markdown.write_text("\n".join(["# On a GPU", "", "```", *lines, "```", ""]), "utf-8")
    return int(any("failed" in row or row.get("status") for row in r.rows))


def table(rows: list[dict[str, Any]], head: list[str]) -> list[str]:
    """The rows, part by part, in columns."""
    lines = list(head)
    for part, group in itertools.groupby(rows, key=lambda row: row["part"]):
        values = [{k: v for k, v in row.items() if k not in ("part", "at")} for row in group]
        lines += ["", part]
        for names, same in itertools.groupby(values, key=tuple):
            cells = [list(names)]
            for row in same:
                cells.append([f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()])
            widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
            lines += [
                "  "
                + "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
                for line in cells
            ]
    return lines
