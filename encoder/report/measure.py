"""Computes what the page shows: the front end in float64, the encoder through a tap.

The attention of all blocks of a large model does not fit into memory, so each block's is pooled as
it is computed.

    # N samples  L blocks  F frames  T positions  S state  H heads  M mel bins
    # P positions in view: the clip and a little of the padding after it
    # G groups of neighbouring positions in view, one pixel each
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import melfront
from melfront.conventions import FRAMES_PER_SECOND

from ..config import EncoderConfig
from ..model import WhisperEncoder
from .blocks import Blocks, Inside

Array = NDArray[Any]
# conv1 and conv2 read three steps each, their own and one on either side.
REACH = 1
CONV2_STRIDE = 2
POSITION = CONV2_STRIDE * melfront.HOP_LENGTH  # samples from one position to the next
PADDING_IN_VIEW = 25  # positions = half a second
# Of the attention pictures of all blocks and heads together. At 64 colours a pixel takes at most 6
# bits, 8 in base64, so that the whole page stays under 15 MB.
PIXELS = 4_000_000
COARSE_PIXELS = 120_000  # the same, of each mistake


class AttentionMaps(NamedTuple):
    """Where every head looks: queries and keys in view, `group` positions a pixel."""

    shares: Array  # (L, H, G, G) float32: share that a query gives to all keys of a group
    group: int  # positions
    padding: Array  # (L, H): share that the clip's queries give to positions after the clip
    distance: Array  # (L, H): mean distance of the clip's queries to their keys, in positions


class Reached(NamedTuple):
    """What a mistake of the encoder reaches, or what is there without one."""

    states: dict[str, Array]  # the stem's stages (S, F or T), and every state (T, S), by stage
    attention: AttentionMaps  # coarse


class Seen(NamedTuple):
    """One clip, stage by stage; at most its first window."""

    audio: Array  # (N,) float32
    front: dict[str, Array]  # the oracle's stages, float64
    mask: Array  # (F,)
    stem: dict[str, Array]  # conv1, gelu1 (S, F), conv2, gelu2 (S, T), positions (T, S), float32
    norm: Array  # (L + 1, T): size of the hidden state before block 0, and after each block
    cosine: Array  # (L, T): of a block's output and its input
    attention: AttentionMaps
    before: Array  # (T, S): the last block's output
    after: Array  # (T, S): the same, normed
    in_view: int  # P
    inside: Inside  # the blocks
    kernels: Array  # (S, M, 3) of the first convolution


def receptive_field(position: int, n_frames: int) -> tuple[int, int]:
    """First and last sample of the clip that a position depends on, before any attention.

    The first has a weight of 0, because Hann's first value is 0.
    """
    middle = CONV2_STRIDE * position
    first = max(middle - 2 * REACH, 0)  # frames: conv2 reads three outputs of conv1, each of three
    last = min(middle + 2 * REACH, n_frames - 1)
    hop, half = melfront.HOP_LENGTH, melfront.N_FFT // 2
    # Samples beyond the edges mirror samples within them.
    return max(first * hop - half, 0), min(last * hop + half, n_frames * hop) - 1


def pool(weights: Tensor, group: int) -> Tensor:
    """Mean over groups of queries, sum over groups of keys: (H, P, P) -> (H, G, G) shares."""
    n = weights.shape[-1]
    keys = (n - torch.arange(0, n, group, device=weights.device)).clamp(max=group)  # of each group
    return torch.nn.functional.avg_pool2d(weights, group, ceil_mode=True) * keys


class Heads:
    """Sees the attention of every block, which is too large to keep, and keeps it pooled."""

    def __init__(self, config: EncoderConfig, n_clip: int, in_view: int, pixels: int) -> None:
        n_pictures = config.n_audio_layer * config.n_audio_head
        self.group = int(np.ceil(in_view / np.sqrt(pixels / n_pictures)))
        self.n_clip, self.in_view = n_clip, in_view
        self.pooled: list[tuple[Tensor, Tensor, Tensor]] = []  # shares, padding, distance

    def see(self, weights: Tensor) -> None:
        """weights: (1, H, T, T), or of the queries in view alone."""
        shares = weights[0].float()
        steps = torch.arange(shares.shape[-1], device=shares.device, dtype=torch.float32)
        away = (steps[: self.n_clip, None] - steps).abs()  # (n_clip, T)
        of_clip, view = shares[:, : self.n_clip], self.in_view
        padding = of_clip[:, :, self.n_clip :].sum(-1).mean(-1)
        distance = (of_clip * away).sum(-1).mean(-1)
        pooled = pool(shares[:, :view, :view], self.group)
        self.pooled.append((pooled.cpu(), padding.cpu(), distance.cpu()))

    def seen(self) -> AttentionMaps:
        shares, *rest = (
            torch.stack(of_blocks).numpy() for of_blocks in zip(*self.pooled, strict=True)
        )
        return AttentionMaps(shares, self.group, *rest)


def positions_of(n_samples: int) -> int:
    """How many positions have a sample of the clip in their 20 ms."""
    return -(-n_samples // POSITION)


def look(audio: Array, model: WhisperEncoder) -> Seen:
    """Run the first window of a clip (N,) float32 through the front end and the model."""
    config = model.config
    seconds = config.n_frames / FRAMES_PER_SECOND
    audio = audio[: round(seconds * melfront.SAMPLE_RATE)]
    options: dict[str, Any] = {"n_mels": config.n_mels, "pad_to": seconds}
    front = melfront.oracle.trace(audio, check_range=False, **options)  # load_audio checked it
    n_clip = positions_of(len(audio))
    in_view = min(n_clip + PADDING_IN_VIEW, config.n_audio_ctx)

    stem: dict[str, Array] = {}
    norms, cosines = [], []
    last: list[Tensor] = []  # the hidden state before the block under way, float32
    heads, blocks = Heads(config, n_clip, in_view, PIXELS), Blocks(config.n_audio_layer, in_view)

    def tap(stage: str, x: Tensor) -> Tensor:
        blocks.see(stage, x)
        if stage.endswith("attn.weights"):
            heads.see(x)
        elif stage == "positions" or stage.endswith("mlp_residual"):
            state = x[0].float()  # (T, S)
            if last:
                cosines.append(torch.cosine_similarity(last.pop(), state, dim=-1).cpu())
            norms.append(state.norm(dim=-1).cpu())
            last.append(state)
        if "." not in stage:
            stem[stage] = x[0].float().cpu().numpy()
        return x

    with torch.inference_mode():
        model(front["features"].astype(np.float32), tap=tap)
    return Seen(
        audio=audio,
        front=front,
        mask=melfront.frame_mask(len(audio), config.n_frames * melfront.HOP_LENGTH),
        stem=stem,
        norm=torch.stack(norms).numpy(),
        cosine=torch.stack(cosines).numpy(),
        attention=heads.seen(),
        before=last[0].cpu().numpy(),
        after=stem["ln_post"],
        in_view=in_view,
        inside=blocks.seen(),
        kernels=model.conv1.weight.detach().float().cpu().numpy(),
    )
