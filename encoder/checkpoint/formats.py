"""Opens a checkpoint's files, of any format. `loading.py` decides which tensors to read.

`files.py` says what is trusted of them: nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from melfront.command import shorten

from . import ggml, mlx, pickles
from .archives import read_members
from .files import DTYPES, SUFFIXES, CheckpointError, Stored, read_header
from .foreign import BESIDE, file_kind

# Under which of these names a PyTorch file has its tensors, if it has something else too:
# openai-whisper (beside `dims`), Lightning, training scripts, DeepSpeed.
STATES = ("model_state_dict", "state_dict", "model", "module")


def open_file(path: Path) -> tuple[dict[str, Stored], Any]:
    """The tensors of a file, by name, and its `dims` if it has them. Raises CheckpointError."""
    with path.open("rb") as file:
        start = file.read(24)
    if not start:
        raise CheckpointError(f"{path} is empty")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull`")
    if what := file_kind(path, start):
        raise CheckpointError(f"{path} is {what}")
    if start.startswith(ggml.MAGIC):
        return _open_ggml(path)
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: expected a file named {', '.join(SUFFIXES)}")
    if path.suffix == ".safetensors":
        return _as_torch(_open_safetensors(path)), None
    return (_as_torch(_open_npz(path)), None) if path.suffix == ".npz" else _open_pickle(path)


def _in_file(path: Path) -> Callable[..., Stored]:
    """A function that makes a Stored of a type, torch's or a name, a shape, begin and end."""
    scratch = torch.empty(0, dtype=torch.uint8)  # shared by all tensors: fresh memory costs time

    def read(dtype: Any, begin: int, end: int, target: Tensor) -> None:
        nonlocal scratch
        direct = target.dtype == dtype and target.device.type == "cpu"
        if not direct and scratch.numel() < end - begin:
            scratch = torch.empty(end - begin, dtype=torch.uint8)
        raw = target if direct else scratch[: end - begin].view(dtype).view(target.shape)
        with path.open("rb") as file:
            file.seek(begin)
            if file.readinto(raw.view(-1).view(torch.uint8).numpy().data) < end - begin:
                raise CheckpointError(f"{path} was cut short while it was read")
        if not direct:
            target.copy_(raw)

    def stored(kind: Any, shape: Iterable[int], begin: int, end: int) -> Stored:
        dtype = DTYPES.get(kind, kind)
        read_into = partial(read, dtype, begin, end)
        return Stored(tuple(shape), dtype, read_into, (str(path), begin, end))

    return stored


def _open_safetensors(path: Path) -> dict[str, Stored]:
    """The format: 8 bytes with the header's length, the header in JSON, the tensors' bytes.

    https://huggingface.co/docs/safetensors, "Format". Every number is little-endian.
    """
    with path.open("rb") as file:
        entries = read_header(file, path.stat().st_size, path)
        start = file.tell()
    stored, tensors = _in_file(path), {}
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        tensors[name] = stored(entry["dtype"], entry["shape"], start + begin, start + end)
    return tensors


def _open_ggml(path: Path) -> tuple[dict[str, Stored], Any]:
    try:
        dims, places = ggml.read(path)
    except ValueError as error:
        raise CheckpointError(
            f"{path} is a ggml model of whisper.cpp: {error}; or give the checkpoint that it was "
            "made from, such as openai/whisper-tiny"
        ) from error
    stored = _in_file(path)
    return {name: stored(*place) for name, place in places.items()}, dims


def _open_npz(path: Path) -> dict[str, Stored]:
    try:
        arrays = mlx.read_npz(path, read_members(path))
    except ValueError as error:
        raise CheckpointError(
            f"{path} is cut short, damaged, or not an npz file ({error})"
        ) from error
    stored, tensors = _in_file(path), {}
    for name, (kind, shape, fortran, *span) in arrays.items():
        in_file = stored(kind, reversed(shape) if fortran else shape, *span)
        tensors[name] = _turned(in_file, *range(len(shape))[::-1]) if fortran else in_file
    return tensors


def _as_torch(tensors: dict[str, Stored]) -> dict[str, Stored]:
    """The same with convolutions as (S, M, K), and mlx-whisper's names as openai-whisper's.

    The kernel is 3 wide in every Whisper: weights of (S, 3, M) are in MLX's layout.
    """
    renamed = mlx.is_layout(tensors)
    result = {}
    for name, stored in tensors.items():
        conv = name.endswith(("conv1.weight", "conv2.weight"))
        swap = conv and stored.shape[1:2] == (3,) and len(stored.shape) == 3 != stored.shape[2]
        result[mlx.openai_name(name) if renamed else name] = (
            _turned(stored, 0, 2, 1) if swap else stored
        )
    return result


def _turned(stored: Stored, *axes: int) -> Stored:
    """The same with its axes in another order."""

    def read_into(target: Tensor) -> None:
        raw = torch.empty(stored.shape, dtype=stored.dtype)
        stored.read_into(raw)
        target.copy_(raw.permute(axes))

    shape = tuple(stored.shape[axis] for axis in axes)
    return Stored(shape, stored.dtype, read_into, stored.place)


def _open_pickle(path: Path) -> tuple[dict[str, Stored], Any]:
    """A PyTorch file."""
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\3\4"
        content, places = pickles.read(path, read_members(path) if is_zip else None)
    except pickles.NotTensors as error:
        if str(error) == pickles.TORCHSCRIPT:
            raise CheckpointError(
                f"{path} is a TorchScript program: save its torch.jit.load(PATH).state_dict()"
            ) from error
        raise CheckpointError(
            f"{path} holds a {shorten(str(error), 120)}, not only tensors. Unpickling that can run "
            "any code, so it is refused: save the model's state_dict, best as safetensors"
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} is cut short, damaged, or not a PyTorch file ({error})"
        ) from error
    state = content
    if isinstance(content, dict):
        state = next((content[key] for key in STATES if key in content), content)
        if state is content and {"state", "param_groups"} <= content.keys():
            raise CheckpointError(f"{path} is the state of an optimizer: {BESIDE}")
    if not isinstance(state, dict):
        kind = state.name if isinstance(state, pickles.Named) else type(state).__name__
        kind = "Tensor" if isinstance(state, pickles.View) else kind
        raise CheckpointError(f"{path} holds a {kind}, expected a state_dict")
    stored, tensors = _in_file(path), {}
    for name, value in state.items():
        if isinstance(value, pickles.View):
            tensors[name] = _of_view(value, places.get(value.storage.key), stored, path)
        elif isinstance(value, pickles.Named):  # a sparse tensor, or one of no device
            tensors[name] = Stored((), value.name, lambda target: None)
    return tensors, content.get("dims")


def _of_view(
    view: pickles.View, place: tuple[int, int] | None, stored: Callable[..., Stored], path: Path
) -> Stored:
    """A tensor of a PyTorch file; place: the bytes of its storage."""
    dtype, _, numel = view.storage
    if place is None or place[1] - place[0] < numel * dtype.itemsize:
        raise CheckpointError(f"{path} is cut short or damaged: it has no storage of {numel}")
    count, span = math.prod(view.shape), view.span()
    known: torch.dtype | str = dtype if dtype in DTYPES.values() else str(dtype)
    if count > span:  # a few bytes shown as many
        known = f"{dtype}, expanded"
    begin = place[0] + view.offset * dtype.itemsize
    end = begin + span * dtype.itemsize
    if view.is_dense() or isinstance(known, str):
        return stored(known, view.shape, begin, end)
    whole = stored(known, (span,), begin, end)

    def read_into(target: Tensor) -> None:
        raw = torch.empty(span, dtype=dtype)
        whole.read_into(raw)
        target.copy_(raw.as_strided(view.shape, view.strides))

    return Stored(view.shape, dtype, read_into, whole.place)
