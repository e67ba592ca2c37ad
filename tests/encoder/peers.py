"""transformers' encoder with our weights, the float64 truth, and bounds on their differences."""

import numpy as np
import torch
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder as TransformersEncoder

from melfront.encoder import EncoderConfig, WhisperEncoder, oracle
from melfront.encoder.checkpoint import hf_name

# All sizes differ, so that a swapped axis cannot pass: 11 positions, width 26, 2 heads of 13,
# 3 blocks, 17 inside the MLP, 7 mel bins in 22 frames.
TOY = EncoderConfig(
    n_mels=7, n_audio_ctx=11, n_audio_state=26, n_audio_head=2, n_audio_layer=3, n_audio_mlp=17
)

# Two correct implementations sum in different orders and have errors of similar size; a factor of
# two leaves room for a worse order. 16-bit types round each tensor to a few bits, so their noise
# varies more: a factor of three.
NOISE_BOUND = {torch.float32: 2.0, torch.float16: 3.0, torch.bfloat16: 3.0}
# The largest difference of two correct float32 encoders, relative to the whole tensor. Measured:
# 2e-7 from transformers, 2.4e-6 from the truth; a tanh GELU gives 1e-4. In 16 bits it is a few ulp:
# sums are in float32, but the result of each op is rounded.
DISTANCE_BOUND = {
    torch.float32: 5e-6,
    torch.float16: 4 * torch.finfo(torch.float16).eps,
    torch.bfloat16: 4 * torch.finfo(torch.bfloat16).eps,
}


def features(config: EncoderConfig, batch: int, seed: int = 1) -> np.ndarray:
    """(B, M, F) float32 with the mean and standard deviation of log-mel features of speech."""
    rng = np.random.default_rng(seed)
    shape = (batch, config.n_mels, config.n_frames)
    return rng.normal(-0.3, 0.5, shape).astype(np.float32)


def theirs(model: WhisperEncoder, attention: str = "sdpa") -> TransformersEncoder:
    """transformers' encoder sharing the model's weight tensors, not copies."""
    config = WhisperConfig(**model.config.to_hf(), attn_implementation=attention)
    with torch.device("meta"):
        encoder = TransformersEncoder(config)
    weights = {hf_name(name): tensor for name, tensor in model.state_dict().items()}
    encoder.load_state_dict(weights, assign=True)
    assert encoder.config._attn_implementation == attention
    return encoder.eval()


def hidden_states(encoder: torch.nn.Module, mel: torch.Tensor) -> list[np.ndarray]:
    """The `hidden_states` of our encoder or transformers': L + 1 of (B, T, S), as float64."""
    with torch.inference_mode():
        out = encoder(mel, output_hidden_states=True)
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
    return [x.cpu().double().numpy() for x in out.hidden_states]


def true_states(model: WhisperEncoder, mel: torch.Tensor) -> list[np.ndarray]:
    """The hidden states from the float64 oracle with the model's own weights and features."""
    n_layer = model.config.n_audio_layer
    wanted = ["positions", *(f"block.{i}.mlp_residual" for i in range(n_layer - 1)), "ln_post"]
    states = {name: [] for name in wanted}

    def tap(stage, tensor):
        if stage in states:
            states[stage].append(tensor)
        return tensor

    for clip in mel:
        oracle.encode(clip, model.state_dict(), model.config, tap)
    return [np.stack(clips) for clips in states.values()]


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def noise(ours, floor, truth, dtype=torch.float32) -> list[float]:
    """Our error per hidden state, in units of the error of `floor`, another correct implementation.

    In float32, one unit is at least 4 ulp, so that rounding does not fail against a lucky floor. In
    bfloat16, 4 ulp would be 3 % of a tensor, so there is no minimum in 16 bits.
    """
    least = 4 * torch.finfo(dtype).eps if dtype == torch.float32 else 0.0
    return [
        rms(a - c) / max(rms(b - c), least * rms(c))
        for a, b, c in zip(ours, floor, truth, strict=True)
    ]


def distance(ours, others) -> list[float]:
    """Relative Frobenius distance between corresponding hidden states."""
    return [rms(a - b) / rms(b) for a, b in zip(ours, others, strict=True)]


def assert_equal_to_rounding(ours, floor, truth, dtype=torch.float32) -> None:
    """Assert that every hidden state is close to transformers' (`floor`) and to the truth.

    The distance from the truth is bounded too: if the truth were wrong, the floor would be as far
    from it as we are, and the noise would be 1. NaN fails.
    """
    assert len(ours) == len(floor) == len(truth)
    for i, (a, b, c) in enumerate(zip(ours, floor, truth, strict=True)):
        assert a.shape == b.shape == c.shape, i
        assert noise([a], [b], [c], dtype)[0] <= NOISE_BOUND[dtype], f"hidden state {i}"
        for other in (b, c):
            assert distance([a], [other])[0] <= DISTANCE_BOUND[dtype], f"hidden state {i}"
