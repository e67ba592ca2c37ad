"""What is exported: the encoder or the front end or both as a module with named tensors.

# B clips  L samples  M mel bins  F frames  T positions  S state
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from melfront.conventions import HOP_LENGTH, N_FRAMES

from ..model import WhisperEncoder
from .front_end import FrontEnd


class FromFeatures(nn.Module):
    """The encoder: input_features (B, M, F) of its dtype -> tensors by the names of `parity`."""

    def __init__(self, encoder: WhisperEncoder, hidden_states: bool = False) -> None:
        super().__init__()
        self.encoder, self.hidden_states = encoder, hidden_states
        self.example = encoder.positions.new_zeros(
            2, encoder.config.n_mels, encoder.config.n_frames
        )

    def forward(self, input_features: Tensor) -> dict[str, Tensor]:
        last, states = self.encoder(input_features, output_hidden_states=self.hidden_states)
        named = {f"hidden_states.{i}": x for i, x in enumerate(states or ())}
        return {"last_hidden_state": last, **named}  # (B, T, S) each


class FromAudio(nn.Module):
    """The front end, with the encoder or alone: audio (B, L) float32 -> tensors by their names.

    Features are float32 whatever the encoder's dtype: 1e-10, their least power, is 0 in float16.
    """

    def __init__(self, encoder: WhisperEncoder | None, n_mels: int, hidden_states: bool = False):
        super().__init__()
        self.front_end = FrontEnd(n_mels)
        self.encoder = encoder and FromFeatures(encoder, hidden_states)
        n_frames = encoder.config.n_frames if encoder else N_FRAMES
        self.example = torch.zeros(2, n_frames * HOP_LENGTH)

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        log_mel = self.front_end(audio)  # (B, M, F)
        if self.encoder is None:
            return {"log_mel": log_mel}
        states = self.encoder(log_mel.to(self.encoder.example.dtype))
        return {**states, "log_mel": log_mel}


@torch.no_grad()
def capture(module: FromFeatures | FromAudio) -> ExportedProgram:
    """The graph of a module for any number of clips, B, and the length that it is made for."""
    shapes = ({0: Dim("batch")},)
    program = torch.export.export(module, (module.example,), dynamic_shapes=shapes)
    program.example_inputs = None  # a pt2 file would keep a minute of silence
    return program


def outputs(program: ExportedProgram) -> list[str]:
    """The names of the graph's results, in order."""
    spec = program.call_spec.out_spec
    assert spec is not None
    return list(spec.context)
