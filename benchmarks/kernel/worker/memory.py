"""Shared memory: marks in it, and where an array is. Imports the standard library alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

# A NaN whose payload means that nothing has been written here; arithmetic never makes it.
POISON = {"float32": 0x7FC0DEAD, "float16": 0x7EDE, "bfloat16": 0x7FDE}
# What glibc can be told to fill new memory with: 3.4e38 in float32, never a computed result.
FRESH = {"float32": 0x7F7F7F7F, "float16": 0x7F7F, "bfloat16": 0x7F7F}
MAPS = Path("/proc/self/maps")  # of Linux


def poisoned(torch: Any, spec: dict[str, Any], device: str) -> Any:
    """A new tensor of this shape and dtype, filled with the mark of what has not been written."""
    tensor = torch.empty(spec["shape"], dtype=getattr(torch, spec["dtype"]), device=device)
    integer = getattr(torch, f"int{8 * tensor.element_size()}")
    tensor.view(integer).fill_(POISON[spec["dtype"]])
    return tensor


def mapped(torch: Any, fd: int, size: int) -> Any:
    """A file's bytes as a tensor on them. Its descriptor may be closed then.

    mmap.mmap keeps one of its own, by which others may open the memory.
    """
    folder = "/proc/self/fd" if sys.platform.startswith("linux") else "/dev/fd"
    return torch.from_file(f"{folder}/{fd}", shared=True, size=size, dtype=torch.uint8)


def at(arena: Any, dtype: Any, count: int, offset: int) -> Any:
    """So many values, flat, from a byte of the memory on."""
    return arena[offset : offset + count * dtype.itemsize].view(dtype)


def span(array: Any) -> tuple[int, int]:
    """First address of an array or tensor, and the one after its last."""
    if hasattr(array, "data_ptr"):
        size, start = array.element_size(), array.data_ptr()
        strides = [s * size for s in array.stride()]
    else:
        size, start, strides = array.itemsize, array.ctypes.data, array.strides
    reach = [(n - 1) * s for n, s in zip(array.shape, strides, strict=True)]
    return start + sum(r for r in reach if r < 0), start + sum(r for r in reach if r > 0) + size


def shared(results: list[tuple[int, int]], others: list[tuple[int, int, str]]) -> str:
    """What a result shares memory with, or nothing: `others`, by their names, or another result."""
    spans = [(start, end, "") for start, end in results] + others
    far, far_result = (0, ""), 0  # the furthest end so far, of whatever it is and of a result
    for start, end, name in sorted(spans):
        if start < (far_result if name else far[0]):
            return name or far[1] or "another result"
        far = max(far, (end, name))
        far_result = max(far_result, 0 if name else end)
    return ""


def shared_mapping(spans: list[tuple[int, int]]) -> bool:
    """Whether any of this memory is mapped so that other processes can change it."""
    for line in MAPS.read_text().splitlines() if MAPS.exists() else []:
        place, permissions = line.split(maxsplit=2)[:2]
        low, high = (int(address, 16) for address in place.split("-"))
        if permissions[3] == "s" and any(low < end and start < high for start, end in spans):
            return True
    return False
