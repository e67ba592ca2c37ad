"""What two cheats gain by how far they go, and which of it is refused.

    python -m tests.benchmarks.turns.gains [seconds of timing]

Run it alone, on a quiet machine with a free core. One line for each: the ratio to the reference
with the guards off, and what they say.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from melfront.benchmarks.kernel import run
from melfront.benchmarks.kernel.outcome import Options
from melfront.benchmarks.kernel.reasons import Refused
from melfront.benchmarks.kernel.run import judge_file
from melfront.benchmarks.kernel.sandbox import guard
from melfront.benchmarks.kernel.timing.times import REFERENCE

SECOND_CORE = """
import threading
from queue import SimpleQueue

import torch
import torch.nn.functional as F

ROWS, ASKED, DONE = {rows}, SimpleQueue(), SimpleQueue()


def fill(out, x, weight, bias, start, end):
    out[..., start:end, :] = F.layer_norm(x[..., start:end, :], weight.shape, weight, bias)


def help_out():
    while True:
        fill(*ASKED.get())
        DONE.put(None)


threading.Thread(target=help_out, daemon=True).start()


def layer_norm(x, weight, bias, eps=1e-5):
    cut = x.shape[-2] - ROWS
    if not ROWS or cut < 1:
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    out = torch.empty_like(x)
    ASKED.put((out, x, weight, bias, cut, x.shape[-2]))
    fill(out, x, weight, bias, 0, cut)
    DONE.get()
    return out
"""

AHEAD = """
import signal

import torch
import torch.nn.functional as F

ROWS, SEEN, DONE = {rows}, [], []


def ahead(_signal, frame):
    while frame and frame.f_code.co_name != "serve":
        frame = frame.f_back
    if frame and frame.f_locals.get("line") == b'{{"do": "poison"}}':
        x, weight, bias, mark = SEEN
        if float(bias[-1]) != mark:  # it is written last
            DONE[:] = [F.layer_norm(x[..., :ROWS, :], weight.shape, weight, bias), float(bias[-1])]
            return
    signal.setitimer(signal.ITIMER_REAL, 0.0002)


signal.signal(signal.SIGALRM, ahead)


def layer_norm(x, weight, bias, eps=1e-5):
    mark = float(bias[-1])
    if ROWS and x.shape[-2] > ROWS:
        SEEN[:] = x, weight, bias, mark
        signal.setitimer(signal.ITIMER_REAL, 0.0002)
    if DONE and DONE[1] == mark and DONE[0].shape[-2] == ROWS < x.shape[-2]:
        out = torch.empty_like(x)
        out[..., :ROWS, :] = DONE[0]
        out[..., ROWS:, :] = F.layer_norm(x[..., ROWS:, :], weight.shape, weight, bias, eps)
        return out
    return F.layer_norm(x, weight.shape, weight, bias, eps)
"""

CHEATS = {"a second core for": SECOND_CORE, "ahead of the call": AHEAD}
ROWS = (0, 15, 30, 75, 150, 375, 750)  # of 1500


@dataclass
class Judge:
    """Says what the guards say, and lets everything pass."""

    fair: object
    said: str = ""

    def __call__(self, *arguments):
        try:
            self.fair(*arguments)
            self.said = "within the limits"
        except Refused as refused:
            self.said = str(refused)


def main(seconds: float) -> None:
    guard.fair = judge = Judge(guard.fair)
    chosen = run.chosen_cases
    run.chosen_cases = lambda *arguments: [*chosen(*arguments)][:1]
    for what, source in CHEATS.items():
        for rows in ROWS:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "kernel.py")
                path.write_text(source.format(rows=rows))
                options = Options(threads=1, seconds=seconds, whole=False)
                outcome = judge_file(str(path), "layer_norm", options)
            if not outcome.races:
                print(f"{rows:4} rows of 1500 {what}: {outcome.code} {outcome.text}", flush=True)
                continue
            (race,) = outcome.races.values()
            said = f"{race.ratio(REFERENCE)[0]:.3f}x, {judge.said}"
            print(f"{rows:4} rows of 1500 {what}: {said} {outcome.warning}", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 4.0)
