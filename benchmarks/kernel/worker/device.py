"""A GPU as the kernel's process uses it: its memory, and the wait for its work.

Everything goes through the CUDA runtime, held by ctypes since before the kernel's file was loaded:
what the file replaces in torch is not used. `StandIn` has ordinary memory in the place of the
device's, so that tests run all of the harness but CUDA itself; no command line can name it.

Imports the standard library alone.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import time
from ctypes import POINTER, c_char_p, c_float, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Any

STAND_IN = "stand-in"  # the device's name, for tests
TO_DEVICE, TO_HOST = 1, 2  # cudaMemcpyKind
L2_CACHE_SIZE = 38  # cudaDeviceAttr
PERSISTING_L2 = 6  # cudaLimit

SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cudaSetDevice": (c_int,),
    "cudaDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cudaDeviceGetPCIBusId": (c_char_p, c_int, c_int),
    "cudaMemGetInfo": (POINTER(c_size_t), POINTER(c_size_t)),
    "cudaMemcpy": (c_void_p, c_void_p, c_size_t, c_int),
    "cudaMemset": (c_void_p, c_int, c_size_t),
    "cudaDeviceSetLimit": (c_int, c_size_t),
    "cudaCtxResetPersistingL2Cache": (),
    "cudaDeviceSynchronize": (),
    "cudaEventCreate": (POINTER(c_void_p),),
    "cudaEventRecord": (c_void_p, c_void_p),
    "cudaEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cudaGetLastError": (),
}


def cuda_runtime() -> str:
    """Path or name of the CUDA runtime that torch has loaded. Raises OSError."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "libcudart" in line:
            return line.split(maxsplit=5)[5]
    if found := ctypes.util.find_library("cudart"):
        return found
    raise OSError("libcudart is not found; install a torch that brings it along, or CUDA's runtime")


class Cuda:
    """One GPU. Methods raise RuntimeError with the number of CUDA's error."""

    def __init__(self, torch: Any, name: str) -> None:
        self.torch_name = name
        index = torch.device(name).index or 0
        torch.cuda.set_device(index)
        torch.zeros(1, device=name)  # makes the context
        self.library: Any = ctypes.CDLL(cuda_runtime())
        for function, types in SIGNATURES.items():
            getattr(self.library, function).argtypes = types
        self.do("cudaSetDevice", index)
        l2, bus = c_int(), ctypes.create_string_buffer(32)
        self.do("cudaDeviceGetAttribute", l2, L2_CACHE_SIZE, index)
        self.do("cudaDeviceGetPCIBusId", bus, len(bus), index)
        self.l2, self.bus = l2.value, bus.value.decode()
        self.flush = torch.empty(2 * self.l2, dtype=torch.uint8, device=name)
        self.flushed = self.flush.data_ptr(), self.flush.numel()
        self.events = c_void_p(), c_void_p()
        for event in self.events:
            self.do("cudaEventCreate", event)

    def do(self, function: str, *args: Any) -> None:
        if error := getattr(self.library, function)(*args):
            self.library.cudaGetLastError()  # or torch would raise it at its next launch
            raise RuntimeError(f"{function}: CUDA error {error}")

    def free(self) -> int:
        """Bytes of the device that no process holds."""
        free, total = c_size_t(), c_size_t()
        self.do("cudaMemGetInfo", free, total)
        return free.value

    def copy_in(self, device: int, host: int, size: int) -> None:
        self.do("cudaMemcpy", device, host, size, TO_DEVICE)

    def copy_out(self, host: int, device: int, size: int) -> None:
        self.do("cudaMemcpy", host, device, size, TO_HOST)

    def clear_cache(self) -> None:
        """Give back what a kernel has set aside of the L2 cache, and fill the cache with zeros."""
        self.library.cudaDeviceSetLimit(PERSISTING_L2, 0)  # an error where there is no such thing
        self.library.cudaCtxResetPersistingL2Cache()
        self.library.cudaGetLastError()
        self.do("cudaMemset", self.flushed[0], 0, self.flushed[1])
        self.wait()

    def start(self) -> None:
        self.do("cudaEventRecord", self.events[0], None)

    def stop(self) -> None:
        """Wait for all streams of this process, whoever started them."""
        self.do("cudaEventRecord", self.events[1], None)
        self.wait()

    def wait(self) -> None:
        self.do("cudaDeviceSynchronize")

    def elapsed_ms(self) -> float:
        """From `start` to `stop`, by the default stream alone."""
        elapsed = c_float()
        self.do("cudaEventElapsedTime", elapsed, *self.events)
        return elapsed.value


class StandIn(Cuda):
    """CPU memory in the place of a device's, apart from what the parent writes to. For tests."""

    def __init__(self, torch: Any, name: str) -> None:
        self.torch_name, self.library = "cpu", None
        self.l2, self.bus, self.times = 4 << 20, "", [0.0, 0.0]

    def free(self) -> int:
        held = Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()
        return (8 << 30) - (1024 * int(held[0]) if held else 0)

    def copy_in(self, device: int, host: int, size: int) -> None:
        ctypes.memmove(device, host, size)

    def copy_out(self, host: int, device: int, size: int) -> None:
        ctypes.memmove(host, device, size)

    def clear_cache(self) -> None:
        pass

    def start(self) -> None:
        self.times[0] = time.perf_counter()

    def stop(self) -> None:
        self.times[1] = time.perf_counter()

    def wait(self) -> None:
        pass

    def elapsed_ms(self) -> float:
        return 1e3 * (self.times[1] - self.times[0])


def opened(torch: Any, name: str) -> Cuda | None:
    """The device of that name; None for the CPU."""
    if name == "cpu":
        return None
    return StandIn(torch, name) if name == STAND_IN else Cuda(torch, name)


def torch_name(name: str) -> str:
    """Where torch has the tensors of a device."""
    return "cpu" if name == STAND_IN else name
