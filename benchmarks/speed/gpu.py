"""The works of `frontend` and `encoder` on a GPU: `--device cuda`. Not verified on a GPU.

A call is timed by the clock, until the device has finished; a row's note has its time by the
device's own events. With device "cpu" the same code runs without events and CUDA graphs, which is
how its test holds every row to the oracle.

    # B batch  N samples  M mel bins  F frames  T positions  S state
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import encoder
import melfront
from encoder import WhisperEncoder

from ..race import race
from . import encoder as encoders
from . import frontend
from .results import AGAIN, Row, Table, errors, to_json

N_EVENTS = 20  # calls
COMPILED, GRAPH = "melfront, torch.compile", "melfront, CUDA graph"
Run = Callable[[], Tensor]


def graphed(function: Callable[[Tensor], Tensor], given: Tensor) -> Run:
    """The function's kernels on this tensor, recorded once and then launched together."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is made in a first call is not to be recorded
        for _ in range(3):
            function(given)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = function(given)

    def run() -> Tensor:
        graph.replay()
        return out

    return run


def of_frontend(work: str, device: str) -> tuple[dict[str, Run], Any]:
    """Contestants, and the truth of their features (B, M, F)."""
    n_clips, n_samples = {
        "30 s": (1, 480_000),
        "8.1 s padded to 30 s": (1, 129_600),
        "32 clips of 30 s": (32, 480_000),
    }[work]
    clips = np.stack([np.roll(frontend.speech(n_samples), 1009 * i) for i in range(n_clips)])
    given = torch.from_numpy(clips).to(device)  # (B, N)
    ours = melfront.LogMel(n_mels=frontend.N_MELS)
    runs: dict[str, Run] = {
        encoders.OURS: partial(ours, given),
        COMPILED: partial(torch.compile(ours), given),
    }
    if torch.device(device).type == "cuda":
        runs[GRAPH] = graphed(ours, given)
    if frontend.installed("openai-whisper") and n_clips == 1:  # its maximum is the whole batch's
        import whisper

        for suffix in ("", AGAIN):
            runs["openai-whisper" + suffix] = lambda: whisper.log_mel_spectrogram(
                whisper.pad_or_trim(given), frontend.N_MELS
            )
    if frontend.installed("transformers"):
        from transformers import WhisperFeatureExtractor

        extract = WhisperFeatureExtractor(feature_size=frontend.N_MELS)
        options = {"sampling_rate": 16_000, "return_tensors": "pt", "device": device}
        # It takes NumPy arrays alone, and copies them to the device.
        runs["transformers"] = lambda: extract(list(clips), **options)["input_features"]
    return runs, melfront.oracle.log_mel(clips, n_mels=frontend.N_MELS)


def of_encoder(work: str, device: str) -> tuple[dict[str, Run], Any]:
    """Contestants, and the truth of the last hidden state (1, T, S)."""
    dims = encoders.config(work)
    mel = encoders.features(dims, 1)  # (1, M, F)
    model = WhisperEncoder.from_formula(dims)
    weights = {name: x.double().numpy() for name, x in model.state_dict().items()}
    truth = encoder.oracle.encode(mel[0].double().numpy(), weights, dims)
    model, given = model.to(device), mel.to(device)
    ours = encoders.ours(model)
    runs: dict[str, Run] = {
        encoders.OURS: partial(ours, given),
        COMPILED: partial(torch.compile(ours), given),
    }
    if torch.device(device).type == "cuda":
        runs[GRAPH] = graphed(ours, given)
    if frontend.installed("transformers"):
        for suffix in ("", AGAIN):
            runs[encoders.SDPA + suffix] = partial(encoders.transformers(model), given)
        compiled = torch.compile(encoders.transformers(model))
        runs["transformers, torch.compile"] = partial(compiled, given)
    if frontend.installed("openai-whisper"):
        runs["openai-whisper"] = partial(encoders.openai(model).to(device), given)
    return runs, truth[None]


CONTESTANTS = {"frontend": of_frontend, "encoder": of_encoder}


def by_events(run: Run) -> float:
    """Median seconds of a call by the device's own clock."""
    times = []
    for _ in range(N_EVENTS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) / 1e3)
    return float(np.median(times))


@torch.inference_mode()
def measure(
    command: str, work: str, seconds: float, threads: int, device: str
) -> list[dict[str, Any]]:
    """A work on a device, in this process, as JSON."""
    warnings.simplefilter("ignore")
    on_gpu = torch.device(device).type == "cuda"
    # TF32 keeps 10 bits of each factor: what is timed is what is stated, float32.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    runs, truth = CONTESTANTS[command](work, device)
    error = {name: errors(run().cpu().numpy(), truth) for name, run in runs.items()}

    def finished(run: Run) -> None:
        run()
        if on_gpu:
            torch.cuda.synchronize()

    times = race({name: partial(finished, run) for name, run in runs.items()}, seconds)
    notes = {n: f"{1e3 * by_events(r):.3g} ms by events" for n, r in runs.items() if on_gpu}
    rows = [Row(n, t, *error[n], notes.get(n, "")) for n, t in times.items()]
    what = "log-mel" if command == "frontend" else "encoder"
    return to_json([Table(f"{what}, {work}, {device}", rows, [encoders.OURS])])
