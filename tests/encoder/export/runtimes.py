"""Load an exported file and run it: name to array, of clips or features (B, ...)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

RUNTIMES = {"onnxruntime": ".onnx", "openvino": ".onnx", "torch": ".pt2"}  # and what each reads
Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def onnxruntime(file: Path) -> Run:
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    return lambda x: dict(zip(names, session.run(None, {given.name: x}), strict=True))


def openvino(file: Path) -> Run:
    ov, onnx = pytest.importorskip("openvino"), pytest.importorskip("onnx")
    # On a CPU with bfloat16 instructions OpenVINO computes in bfloat16 unless told otherwise.
    model = ov.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    # It gives some outputs a second name, that of the tensor inside the graph.
    names = [output.name for output in onnx.load(file, load_external_data=False).graph.output]

    def run(x: np.ndarray) -> dict[str, np.ndarray]:
        result = model(x)
        return {name: result[name] for name in names}

    return run


def torch_export(file: Path) -> Run:
    module = torch.export.load(file).module()
    return lambda x: {name: y.detach().numpy() for name, y in module(torch.from_numpy(x)).items()}


def load(runtime: str, file: Path) -> Run:
    make = {"onnxruntime": onnxruntime, "openvino": openvino, "torch": torch_export}[runtime]
    return make(file.with_suffix(RUNTIMES[runtime]))


def padded(clips: list[np.ndarray], length: int) -> np.ndarray:
    """(B, length)"""
    return np.stack([np.pad(clip, (0, length - len(clip))) for clip in clips])
