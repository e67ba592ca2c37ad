"""Settings that hold for a whole process, which a kernel may change for everybody else in it.

They are read before the kernel's file is loaded; what differs later is set back, and reported.

Imports the standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# Variables begin so by which the libraries that our own ops use choose threads, memory and
# arithmetic. Others are the kernel's own affair.
VARIABLES = (
    *("ATEN_", "CUBLAS_", "CUDA_", "DNNL_", "GOMP_", "KMP_", "MALLOC_", "MKL_", "NUMBA_"),
    *("NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS_", "TORCH_ALLOW_"),
)
# Of torch.backends, for either device; a torch that has not one of them leaves it out.
FLAGS = {
    "cpu": {
        "mkldnn": "enabled",
        "mkldnn.matmul": "fp32_precision",
        "mkldnn.conv": "fp32_precision",
    },
    "cuda": {
        "cuda.matmul": "allow_tf32 allow_fp16_reduced_precision_reduction "
        "allow_bf16_reduced_precision_reduction allow_fp16_accumulation",
        "cudnn": "enabled allow_tf32 benchmark deterministic",
    },
}


def limit_threads(torch: Any, threads: int) -> None:
    """Give every library as many threads as the user asked for."""
    for name in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)
    os.environ["PJRT_NPROC"] = str(threads)  # XLA's, and so JAX's
    torch.set_num_threads(threads)
    with contextlib.suppress(ImportError):  # for libraries that are loaded already
        import threadpoolctl

        threadpoolctl.threadpool_limits(threads)


class Switch(NamedTuple):
    """A setting: how it is read, and set."""

    name: str
    get: Callable[[], Any]
    set: Callable[[Any], Any]


def flushes() -> bool:
    """Whether numbers too small to be normal count as zero; nothing else tells."""
    least, half = float("5e-324"), float("0.5")
    return least + 0.0 == 0.0 or sys.float_info.min * half == 0.0


def switches(torch: Any, device: str) -> list[Switch]:
    """Those that can be read in less than a microsecond."""
    found = [
        Switch("torch.set_flush_denormal", flushes, torch.set_flush_denormal),
        Switch(
            "torch.set_float32_matmul_precision",
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
        ),
        Switch("torch.set_default_dtype", torch.get_default_dtype, torch.set_default_dtype),
        Switch("torch.set_grad_enabled", torch.is_grad_enabled, torch.set_grad_enabled),
        Switch("torch.set_num_threads", torch.get_num_threads, torch.set_num_threads),
        Switch(
            "torch.use_deterministic_algorithms",
            torch.are_deterministic_algorithms_enabled,
            torch.use_deterministic_algorithms,
        ),
    ]
    for path, names in FLAGS["cpu" if device == "cpu" else "cuda"].items():
        owner: Any = torch.backends
        for step in path.split("."):
            owner = getattr(owner, step, None)
        found += [flag(path, owner, name) for name in names.split() if hasattr(owner, name)]
    return found


def flag(path: str, owner: Any, name: str) -> Switch:
    """An attribute of torch.backends."""

    def get() -> Any:
        value = getattr(owner, name)
        return "ieee" if value == "none" else value  # what set_float32_matmul_precision leaves

    return Switch(f"torch.backends.{path}.{name}", get, lambda value: setattr(owner, name, value))


def others() -> list[Switch]:
    """Those of libraries that may be loaded later."""
    threads = sys.modules.get("numba.np.ufunc.parallel")
    if not getattr(threads, "_is_initialized", False):
        return []  # to ask numba would start its threads
    numba = sys.modules["numba"]
    return [Switch("numba.set_num_threads", numba.get_num_threads, numba.set_num_threads)]


class Switches:
    """All settings, as they were when this was made."""

    def __init__(self, torch: Any, device: str, threads: int) -> None:
        self.threads = threads
        self.quick = [(s, s.get()) for s in switches(torch, device)]
        self.environment = environment()
        self.seen: list[str] = []  # in words, each once

    def restore(self) -> None:
        """Set back what can be read at once."""
        for switch, was in self.quick:
            try:
                now = switch.get()
            except RuntimeError:
                continue  # torch does not sum up flags that disagree; each has an entry of its own
            if now != was:
                self.note(switch.name, was, now)
                switch.set(was)

    def restore_all(self) -> None:
        """Set back everything."""
        self.restore()
        for switch in others():
            if (now := switch.get()) != self.threads:
                self.note(switch.name, self.threads, now)
                switch.set(self.threads)
        now = environment()
        for name in sorted(self.environment.keys() | now.keys()):
            was, is_now = self.environment.get(name), now.get(name)
            if was != is_now:
                self.note(f"os.environ[{name!r}]", was, is_now)
                if was is None:
                    del os.environ[name]
                else:
                    os.environ[name] = was

    def note(self, name: str, was: Any, now: Any) -> None:
        line = f"{name} from {was} to {now}"
        if line not in self.seen:
            self.seen.append(line)


def environment(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that matter."""
    return {n: v for n, v in variables.items() if n.startswith(VARIABLES)}
