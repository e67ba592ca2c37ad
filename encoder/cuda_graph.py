"""The encoder as a CUDA graph: one launch for all of its kernels."""

from __future__ import annotations

from melfront.backends.cuda_graph import Graphed

from .model import WhisperEncoder


def graphed(model: WhisperEncoder, batch: int = 1) -> Graphed:
    """`model(mel).last_hidden_state` of `batch` clips, without gradients, as a CUDA graph.

    model: on a CUDA device, in any dtype, with its weights loaded: a graph reads them at the
        addresses they had at capture. To compile it too, compile the blocks first:
        `for block in model.blocks: block.compile(dynamic=False)` compiles one block for all.
        Functions in use through `ops.using` are captured.

    Returns a function of mel (batch, M, F), of the model's dtype and device, that returns
    (batch, T, S): the same memory in every call, so clone what you keep. Raises ValueError for a
    model that is not on a CUDA device.
    """
    config = model.config
    example = model.positions.new_zeros(batch, config.n_mels, config.n_frames)
    return Graphed(lambda mel: model(mel).last_hidden_state, example)
