"""A CUDA graph: the kernels of a call recorded once, then launched together.

Launching a kernel takes the CPU some 5 microseconds. The front end launches 15 of them and the
encoder of large-v3 some 500, which is as long as the GPU needs to compute one clip.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

N_WARM_UP = 3  # calls; cuBLAS, cuFFT and torch.compile allocate and choose kernels in the first


class Graphed:
    """`function(x)` without gradients, for tensors of one shape, dtype and CUDA device.

    `melfront.Graphed(melfront.LogMel(), clips)` is the front end for clips (B, N) of that shape,
    `encoder.graphed` the encoder. Call it as the function. The result is the same memory in every
    call: clone it to keep it. The function must be one that a CUDA graph can capture: no look at a
    value, no copy from the host. Each call reads weights and other tensors at the addresses they
    had at capture, and runs the kernels that were in use then (`melfront.using`).
    """

    def __init__(self, function: Callable[[Tensor], Tensor], example: Tensor) -> None:
        """Capture. Raises ValueError for an example that is not on a CUDA device."""
        if example.device.type != "cuda":
            raise ValueError(
                f"a CUDA graph needs a CUDA device; given a tensor on {example.device}. Move the "
                "model or the clip there first, or call it as it is"
            )
        self.given = example.detach().clone()
        with torch.no_grad(), torch.cuda.device(example.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # what the first calls allocate is not to be captured
                for _ in range(N_WARM_UP):
                    function(self.given)
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.result = function(self.given)

    def __call__(self, x: Tensor) -> Tensor:
        """What the function returns for x. Raises ValueError if x is not like the example."""
        if (x.shape, x.dtype, x.device) != (self.given.shape, self.given.dtype, self.given.device):
            raise ValueError(
                f"this graph takes {tuple(self.given.shape)} {self.given.dtype} on "
                f"{self.given.device}; given {tuple(x.shape)} {x.dtype} on {x.device}"
            )
        self.given.copy_(x)
        self.graph.replay()
        return self.result
