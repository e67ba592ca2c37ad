"""melfront benchmarks gpu: everything that only a GPU can say, in one run of a few minutes.

Numbers first, then times, the dearest last. Each row is printed and written to gpu.json as soon as
it is measured, and each part has its own try: a run that is killed, or a part that fails, costs no
row of another. `--device cpu --size tiny` runs the same code without a GPU.
"""

from __future__ import annotations

import argparse
import atexit
import itertools
import os
import subprocess
import sys
import time
import warnings
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch

from melfront.command import Parser, UsageError, replacing
from melfront.encoder import SIZES, WhisperEncoder

from ..kernel.report import aligned
from ..machine import installed, versions_of
from .numbers import KINDS, against_the_oracle, features, formula_encoder, hidden_states
from .rows import Rows, tf32
from .times import SLOTS, TF32, encoders, frontend, kernel, roofs

CHECKOUT = Path(__file__).parents[2]
PARTS = ("features", "oracle", "states", "tests", "frontend", "encoder", "kernels")
BATCHES = {"frontend": (1, 16, 64, 256), "encoder": (1, 8, 32)}


def machine(r: Rows) -> None:
    versions = versions_of("torch", "transformers", "triton", "numpy")
    name = torch.cuda.get_device_name(r.device) if r.on_gpu else "no GPU"
    r.add("machine", gpu=name, cores=os.cpu_count(), date=str(date.today()), **versions)


def start_tests(r: Rows) -> subprocess.Popen[bytes] | None:
    """The tests that are marked gpu, several at a time, beside what needs no clock."""
    if not r.wants("tests") or not r.on_gpu or not (CHECKOUT / "tests").is_dir():
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu and not slow", "tests"]
    if installed("pytest-xdist"):
        command += ["-n", "8"]
    log = r.file.with_name("pytest.log").open("wb")
    tests = subprocess.Popen(command, cwd=CHECKOUT, stdout=log, stderr=subprocess.STDOUT)
    atexit.register(tests.kill)  # they do not outlive a run that is interrupted
    return tests


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


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="melfront benchmarks gpu",
        description="Everything that only a GPU can say, in one run.",
        epilog="example:\n  melfront benchmarks gpu -o results --markdown benchmarks/GPU.md",
    )
    add = parser.add_argument
    add("--device", default="cuda", help="default: cuda; cpu runs the same code without a GPU")
    add("--size", choices=sorted(SIZES), default="large-v3", help="default: large-v3")
    add("--trained", metavar="PATH", help="a checkpoint whose hidden states are checked as well")
    add("--only", metavar="PART", nargs="+", choices=PARTS, help=f"of {', '.join(PARTS)}")
    add("--minutes", type=float, default=8.0, help="no part starts that would end later; default 8")
    add("-o", "--output", metavar="DIR", type=Path, default=Path(), help="where gpu.json goes")
    add("--markdown", metavar="FILE", type=Path, help="write the table there too")
    return parser.parse_args(arguments)


@torch.inference_mode()
def main(arguments: list[str]) -> int:
    """Measure. Returns 0, or 1 if a part failed. Raises UsageError for an unknown device."""
    args = parse(arguments)
    try:
        device = torch.zeros(1, device=args.device).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {args.device}: {str(error).splitlines()[0]}") from error
    warnings.simplefilter("ignore")
    tf32(False)
    args.output.mkdir(parents=True, exist_ok=True)
    r = Rows(device, args.output / "gpu.json", args.minutes, args.only or ())
    machine(r)
    tests = start_tests(r)
    r.part("features", lambda: features(r))
    if r.wants("oracle", "states", "encoder"):
        model = formula_encoder(SIZES[args.size], device)
        r.add("weights", size=args.size, blocks=model.config.n_audio_layer)
        r.part("oracle", lambda: against_the_oracle(r, model))
        r.part("states", lambda: hidden_states(r, args.size, model))
    if args.trained:
        trained = partial(WhisperEncoder.from_pretrained, args.trained, device=device)
        r.part("states", lambda: hidden_states(r, Path(args.trained).name, trained()))
    r.part("tests", lambda: finish_tests(r, tests))
    for batch in BATCHES["frontend"] if r.on_gpu else (1,):
        r.part("frontend", partial(frontend, r, batch))
    if r.wants("encoder"):
        of_the_encoder(r, model)
    if r.on_gpu:
        for slot in SLOTS:
            r.part("kernels", partial(kernel, r, slot), 75)
    lines = [f"$ melfront benchmarks gpu {' '.join(arguments)}", *table(r.rows)]
    print("", *lines, sep="\n")
    if args.markdown:
        page = "\n".join(["# On a GPU", "", "```", *lines, "```", ""])
        with replacing(args.markdown) as temporary:
            temporary.write_text(page, encoding="utf-8")
    return int(any("failed" in row or row.get("status") for row in r.rows))


def of_the_encoder(r: Rows, model: WhisperEncoder) -> None:
    """What the card can do at most, and what share of it the encoder reaches."""
    rates: dict[str, float] = {}
    r.part("encoder", lambda: rates.update(roofs(r)))
    kinds = ("bfloat16", "float16", "float32", TF32) if r.on_gpu else ("float32",)
    for kind, batch in itertools.product(kinds, BATCHES["encoder"] if r.on_gpu else (1,)):
        if batch == 32 and KINDS.get(kind, torch.float32) == torch.float32:
            continue  # seconds a round, and nothing that a batch of 8 does not say
        roof = rates.get(kind, float("nan"))
        r.part("encoder", partial(encoders, r, model, kind, batch, roof), 20)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows, part by part, in columns."""
    lines = []
    for part, group in itertools.groupby(rows, key=lambda row: row["part"]):
        values = [{k: v for k, v in row.items() if k not in ("part", "at")} for row in group]
        lines += ["", part]
        for names, same in itertools.groupby(values, key=tuple):
            cells = [list(names)]
            for row in same:
                cells.append([f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()])
            lines += [f"  {line}" for line in aligned(cells)]
    return lines
