"""Kill `melfront encoder FOLDER -o OUT` again and again at random moments, until it is done.

    python -m tests.encoder.cli.killed KILLS FOLDER

Processes are forks of this one, which has imported torch and not used it, so that most moments are
those of encoding and writing. After each kill every output is compared with an undisturbed run's.
Prints figures as JSON: how often each signal came, how many clips were there, how often there was
litter, which only a later run can remove, and how many runs ended a corpus.
"""

import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import torch

from melfront.encoder import built_in
from melfront.encoder.__main__ import main

MODEL = "formula:toy"
N_CLIPS = 50
SIGNALS = (signal.SIGKILL, signal.SIGTERM)


def make_clips(folder: Path) -> None:
    """Noise, of one to twelve windows, in folders of ten."""
    import soundfile

    rng = np.random.default_rng(50)
    window = built_in.TOY.n_frames * 160
    for i in range(N_CLIPS):
        file = folder / str(i // 10) / f"{i}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        audio = rng.uniform(-0.5, 0.5, 1 + rng.integers(12 * window))
        soundfile.write(file, audio, 16_000, subtype="FLOAT")


def start(clips: Path, out: Path, errors: Path) -> int:
    """The process id of a fork that encodes the clips."""
    if child := os.fork():
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    status = 99
    try:
        status = main([str(clips), "--model", MODEL, "-o", str(out)])
    finally:
        os._exit(status)


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a folder; of a temporary one, which others may remove, its name."""
    files = (file for file in out.rglob("*") if file.is_file())
    return {str(f.relative_to(out)): b"" if ".tmp" in str(f) else f.read_bytes() for f in files}


def run(n_kills: int, folder: Path) -> dict[str, object]:
    clips, errors, rng = folder / "clips", folder / "errors", Random(n_kills)
    make_clips(clips)
    assert wait(start(clips, folder / "warm", errors)) == 0, errors.read_text()
    begin = time.monotonic()
    assert wait(start(clips, folder / "undisturbed", errors)) == 0, errors.read_text()
    span = time.monotonic() - begin
    expected = contents(folder / "undisturbed")
    assert len(expected) == N_CLIPS
    ended: Counter[str] = Counter()
    there: Counter[int] = Counter()
    litter = corpora = 0
    while ended.total() < n_kills:
        corpora += 1
        out = folder / f"out{corpora}"
        killed = True
        while killed:
            child = start(clips, out, errors)
            number = rng.choice(SIGNALS)
            if ended.total() < n_kills:
                time.sleep(rng.uniform(0, span))
                os.kill(child, number)
            status = wait(child)
            killed = status != 0
            text = errors.read_text()
            if killed:
                assert status in (-number, 128 + number), text
                assert text in ("", f"melfront encoder: ended by {number.name}\n"), text
                ended[f"{number.name} {status}"] += 1
            found = contents(out)
            left = [name for name in found if ".tmp" in name]
            whole = {name: content for name, content in found.items() if name not in left}
            assert whole.items() <= expected.items(), "a file that is not as it should be"
            there[len(whole) // 10 * 10] += killed
            litter += killed and bool(left)
        assert found == expected, set(found) ^ set(expected)
    figures = {"kills": ended.total(), "ended": dict(ended), "corpora": corpora, "litter": litter}
    return figures | {"clips there, in tens": dict(sorted(there.items()))}


if __name__ == "__main__":
    torch.set_num_threads(1)  # a fork of a process with OpenMP's threads could wait for them
    print(json.dumps(run(int(sys.argv[1]), Path(sys.argv[2]))))
