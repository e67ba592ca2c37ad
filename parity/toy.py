"""Two encoders small enough to be committed whole: every stage in `reference_data/encoder`.

Both have two blocks and prime sizes that are all different, so that no swapped axis fits by chance,
and formula weights. The quiet one is the same with the stem turned down, so that what the first
layer norm is given has a variance near its eps: only then does a wrong eps show.
"""

from __future__ import annotations

from encoder import EncoderConfig, WhisperEncoder

TOY = EncoderConfig(
    n_mels=7, n_audio_ctx=11, n_audio_state=26, n_audio_head=2, n_audio_layer=2, n_audio_mlp=53
)
STEM = ("conv1.", "conv2.", "positions")
QUIET_BITS = 7  # the stem's weights and biases, and the positions, over 2^7: exact
NAMES = {"toy": 0, "toy-quiet": QUIET_BITS}  # as in --model formula:toy


def load(name: str) -> WhisperEncoder:
    """The toy encoder of this name. Raises KeyError."""
    factor = 2.0 ** -NAMES[name]
    weights = {
        name: tensor.detach() * (factor if name.startswith(STEM) else 1.0)
        for name, tensor in WhisperEncoder.from_formula(TOY).state_dict().items()
    }
    return WhisperEncoder.from_weights(TOY, weights)
