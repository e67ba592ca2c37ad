"""Encoder mistakes that have a length: sequences computed in pieces, tiles that are left out.

A port computes in chunks of a second, a kernel in tiles of 64; the length is part of the mistake.
`cut_up` makes the entries for lengths that people use and that the sequence is longer than.

    # B batch  C channels  F frames  T positions  S state  H heads  D head_dim
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from melfront.encoder import ops

from ..stages import Stage
from .entry import EncoderMistake

WINDOWS = (4, 50, 64, 100, 128, 250, 500, 512, 750)  # positions that attend to each other
TILES = (4, 64, 128, 256)  # keys or positions that a kernel takes at a time
HEADS = (1, 4, 8, 12, 16, 20, 64)


def cut_up(n_positions: int, n_state: int, n_head: int) -> list[EncoderMistake]:
    """The entries that cut up attention, for an encoder of these dimensions."""
    windows = [attention_in_windows(n) for n in WINDOWS if n < n_positions]
    rests = dict.fromkeys(n_positions % n for n in TILES if n < n_positions)
    counts = (n for n in (*HEADS, n_state // n_head) if n_state % n == 0 and n != n_head)
    return [
        *windows,
        *(of_rest(n) for n in rests if n for of_rest in (keys_dropped, positions_unwritten)),
        *(heads_instead(n, n_head) for n in dict.fromkeys(counts)),
    ]


def attention_in_windows(n: int) -> EncoderMistake:
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        pieces = zip(*(x.split(n, dim=2) for x in (q, k, v)), strict=True)
        return torch.cat([ops.attention(*piece) for piece in pieces], dim=2)

    return EncoderMistake(
        f"attention in windows of {n}",
        Stage("block.0.attn.context"),
        f"positions attend to those of their own {n} only, and not to all",
        ops={"attention": attention},
    )


def keys_dropped(n: int) -> EncoderMistake:
    return EncoderMistake(
        f"last {n} keys dropped",
        Stage("block.0.attn.context"),
        "a kernel goes over the keys in tiles and leaves out the last tile, which is not full",
        ops={"attention": lambda q, k, v: ops.attention(q, k[:, :, :-n], v[:, :, :-n])},
    )


def positions_unwritten(n: int) -> EncoderMistake:
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.pad(ops.attention(q[:, :, :-n], k, v), (0, 0, 0, n))

    return EncoderMistake(
        f"last {n} positions of attention unwritten",
        Stage("block.0.attn.context"),
        "a kernel goes over the queries in tiles and leaves out the last tile, which is not full",
        ops={"attention": attention},
    )


def heads_instead(n: int, n_head: int) -> EncoderMistake:
    def recut(x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2).unflatten(-1, (n, -1)).transpose(1, 2)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        context = ops.attention(recut(q), recut(k), recut(v))
        return context.transpose(1, 2).flatten(2).unflatten(-1, (n_head, -1)).transpose(1, 2)

    return EncoderMistake(
        f"heads counted as {n}",
        Stage("block.0.attn.scores"),
        f"the state is cut into {n} heads, and the model has {n_head}",
        ops={"scores": lambda q, k: ops.scores(recut(q), recut(k)), "attention": attention},
    )


# --- the convolutions -----------------------------------------------------------------------------


def by_pieces(x: Tensor, n: int, w: Tensor, b: Tensor, stride: int) -> Tensor:
    """The convolution of every n steps of x (B, C, F) by themselves."""
    return torch.cat([ops.conv1d(piece, w, b, stride) for piece in x.split(n, dim=2)], dim=2)


def in_chunks(frames: int) -> EncoderMistake:
    """Both convolutions on chunks of so many frames, an even number."""
    return EncoderMistake(
        f"convolutions in chunks of {frames} frames",
        Stage("conv1"),
        "the stem is computed chunk by chunk, and each chunk is padded with zeros; the frames of "
        "its neighbours belong there",
        ops={"conv1d": lambda x, w, b, stride: by_pieces(x, frames, w, b, stride)},
    )


def in_tiles(n: int) -> EncoderMistake:
    """Each convolution in tiles of so many of its outputs."""
    return EncoderMistake(
        f"convolution tiles of {n} without their neighbours",
        Stage("conv1"),
        "a kernel loads a tile of a convolution's input without the frame before and the frame "
        "after it, and takes zeros for them",
        ops={"conv1d": lambda x, w, b, stride: by_pieces(x, n * stride, w, b, stride)},
    )


def of_period(steps: int, frames: bool) -> list[EncoderMistake]:
    """What spoils every so many frames or, after the second convolution, positions."""
    if frames:
        return [in_tiles(steps), *([] if steps % 2 else [in_chunks(steps)])]
    conv2 = frozenset({Stage("conv2")})
    alone = replace(in_tiles(steps), stage=Stage("conv2"), where=conv2)
    return [in_chunks(2 * steps), in_tiles(2 * steps), in_tiles(steps), alone]
