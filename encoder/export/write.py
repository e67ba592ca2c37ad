"""Write a captured graph to a file, whole or not at all."""

from __future__ import annotations

import io
import json
import logging
import shutil
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from melfront.command import replacing

from .graph import outputs

OPSET = 18  # what torch translates to best; everything that reads ONNX knows it
# A file in protobuf's format holds at most 2^31 bytes; larger weights go to a file beside it.
MOST_BYTES = 2_000_000_000


def write_onnx(program: ExportedProgram, file: Path, metadata: dict[str, str]) -> list[Path]:
    """Write ONNX; where the weights are too large for one file, they go to FILE.data beside it.

    metadata: for the file's `metadata_props`.
    Returns the files. Raises UsageError or OSError where they cannot be written, ImportError where
    onnxscript is missing.
    """
    import onnx_ir

    model = to_onnx(program)
    model.metadata_props.update(metadata)
    n_bytes = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    files = [file]
    if n_bytes > MOST_BYTES:
        files.append(file.with_name(f"{file.name}.data"))
    with ExitStack() as stack:
        graph, *data = (stack.enter_context(replacing(path)) for path in files)
        onnx_ir.save(model, graph, external_data=files[1].name if data else None)
        for to in data:  # which is beside the graph, because the graph names it
            shutil.move(graph.with_name(files[1].name), to)
    return files


def to_onnx(program: ExportedProgram) -> Any:
    """The graph as an onnx_ir.Model."""
    import onnx_ir

    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it says that torchvision is not installed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                program, output_names=outputs(program), opset_version=OPSET, verbose=False
            )
    finally:
        log.setLevel(level)
    assert exported is not None
    for value in (*exported.model.graph.inputs, *exported.model.graph.outputs):
        value.shape = onnx_ir.Shape(["batch", *value.shape[1:]])
    # Which line of which file made each node: paths of the machine that exported.
    for node in exported.model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    return exported.model


def write_torch_export(
    program: ExportedProgram, file: Path, metadata: dict[str, str]
) -> list[Path]:
    """Write what `torch.export.load` reads; metadata is its extra file "metadata.json"."""
    # On a full disk torch ends the process, so it writes to memory.
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(metadata)})
    with replacing(file) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    return [file]
