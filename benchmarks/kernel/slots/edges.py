"""What breaks kernels: for each slot small cases, of prime sizes that the run's seed picks.

No kernel can know these sizes, and each case is there because some kernel fails on it.

    # B batch  M mel bins  F frames  K frequencies  N n_fft  T positions  S state  H heads
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..proof.cases import Case, Dice, constants, framed

HEAD_DIM = 64  # of every published Whisper; a kernel may rely on it


def strided(x: Tensor) -> Tensor:
    """The same values with twice as much memory between them; what lies between is NaN."""
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), float("nan"), dtype=x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def sizes(dice: Dice) -> tuple[int, int, int]:
    """B, T and S: different primes."""
    return 3, dice.prime(53, 59, 61, 67, 71, 73), dice.prime(101, 107, 127, 131, 149, 173)


def stft(dice: Dice) -> list[Case]:
    window, _ = constants(80)
    window = window.to(dice.dtype)
    n = dice.prime(53, 59, 61, 67)
    frames = dice.normal(3, n, 400, std=0.1)
    clip = dice.normal(160 * n + 7, std=0.1)
    tone = torch.sin(torch.arange(160 * n) * 0.37).to(dice.dtype)
    return [
        Case("prime size", (frames, window)),
        Case("overlapping frames", (framed(clip), window)),
        Case("tone", (framed(tone), window)),
        Case("silence", (torch.zeros_like(frames[0]), window)),
    ]


def mel(dice: Dice) -> list[Case]:
    _, filters = constants(80)
    filters = filters.to(dice.dtype)
    n = dice.prime(53, 59, 61, 67)
    power = dice.normal(3, n, 201).square()
    bins = dice.prime(71, 73, 79, 83)
    return [
        Case("prime size", (power, filters)),
        Case("other filters", (power, dice.normal(bins, 201).abs())),
        Case("non-contiguous", (strided(power), filters)),
        Case("zeros and ones", (dice.bits(n, 201), dice.bits(bins, 201)), vary="bits", exact=True),
    ]


def log_scale(dice: Dice) -> list[Case]:
    m, n = dice.prime(71, 73, 79, 83), dice.prime(53, 59, 61, 67)
    power = (10 ** dice.normal(3, m, n, std=3.0).float()).to(dice.dtype)
    loudness = torch.tensor([1.0, 1e-6, 1e4], dtype=dice.dtype)[:, None, None]
    return [
        Case("prime size", (power,)),
        Case("batch of unequal loudness", (power * loudness,)),
        Case("non-contiguous", (strided(power),)),
        Case("silence", (torch.zeros(m, n, dtype=dice.dtype),)),
        Case("time first", (power.transpose(1, 2).contiguous().transpose(1, 2),)),
    ]


def log_mel(dice: Dice) -> list[Case]:
    n = dice.prime(15_991, 24_001, 31_991)
    noise = dice.normal(n, std=0.1)
    click = torch.zeros(n, dtype=dice.dtype)
    click[dice.below(n)] = 0.7
    tone = torch.sin(torch.arange(480_000) * 0.37).to(dice.dtype)
    loud = torch.tensor([[1.0], [1e-3], [0.05]], dtype=dice.dtype)
    return [
        Case("prime size", (noise,), {"n_mels": 80}),
        Case("128 bins", (noise,), {"n_mels": 128}),
        Case("batch of unequal loudness", (noise * loud,), {"n_mels": 80}),
        Case("silence", (torch.zeros(n, dtype=dice.dtype),), {"n_mels": 80}),
        Case("click", (click,), {"n_mels": 80}),
        Case("30 s of a tone", (tone,), {"n_mels": 80}),
    ]


def conv1d_gelu(dice: Dice) -> list[Case]:
    b, f, s = sizes(dice)
    c = dice.prime(79, 83, 89)
    weight, bias = dice.normal(s, c, 3, std=(3 * c) ** -0.5), dice.normal(s)
    x = dice.normal(b, c, f)
    return [
        Case("prime size", (x, weight, bias), {"stride": 1}),
        Case("prime size, stride 2", (x, weight, bias), {"stride": 2}),
        Case("even length, stride 2", (x[..., : f - 1].contiguous(), weight, bias), {"stride": 2}),
        Case("non-contiguous", (strided(x), weight, bias), {"stride": 1}),
        Case("large values", (50 * x, weight, bias), {"stride": 2}),
    ]


def gelu(dice: Dice) -> list[Case]:
    x = dice.normal(*sizes(dice), std=1.5)
    return [
        Case("prime size", (x,)),
        Case("one axis", (x[0, 0].contiguous(),)),
        Case("non-contiguous", (strided(x),)),
        Case("transposed", (x.transpose(1, 2),)),
        Case("large values", (60 * x,)),
        Case("small values", (1e-3 * x,)),
    ]


def layer_norm(dice: Dice) -> list[Case]:
    b, t, s = sizes(dice)
    weight, bias, x = dice.normal(s, mean=1.5), dice.normal(s), dice.normal(b, t, s)
    cases = [
        Case("prime size", (x, weight, bias)),
        Case("one row", (x[0, :1].contiguous(), weight, bias)),
        Case("non-contiguous", (strided(x), weight, bias)),
        Case("transposed", (x.transpose(0, 1), weight, bias)),
        Case("small values", (1e-3 * x, weight, bias)),
    ]
    # The mean is 1000 times the spread: E[x^2] - E[x]^2 has no digit left. In 16 bits the spread
    # itself would be lost in storing x.
    if dice.dtype == torch.float32:
        cases.append(Case("large offset", (x + 1000, weight, bias), vary="add"))
    else:
        cases.append(Case("large offset", (x + 16, weight, bias), vary="add"))
    return cases


def linear(dice: Dice) -> list[Case]:
    b, t, s = sizes(dice)
    o = dice.prime(97, 103, 109, 113)
    x, weight, bias = dice.normal(b, t, s), dice.normal(o, s, std=s**-0.5), dice.normal(o)
    bits = (dice.bits(t, s), dice.bits(o, s), dice.bits(o))
    return [
        Case("prime size", (x, weight, bias)),
        Case("no bias", (x, weight)),
        Case("non-contiguous", (strided(x), weight, bias)),
        Case("transposed weight", (x, weight.T.contiguous().T, bias)),
        Case("zeros and ones", bits, vary="bits", exact=True),
    ]


def qkv(dice: Dice) -> list[Case]:
    b, t, s = sizes(dice)

    def arguments(make: Callable[..., Tensor], x: Tensor) -> tuple[Any, ...]:
        return (x, make(s, s), make(s), make(s, s), make(s, s), make(s))

    x = dice.normal(b, t, s)
    return [
        Case("prime size", arguments(dice.normal, x)),
        Case("non-contiguous", arguments(dice.normal, strided(x))),
        Case("zeros and ones", arguments(dice.bits, dice.bits(b, t, s)), vary="bits", exact=True),
    ]


def softmax(dice: Dice) -> list[Case]:
    b, t, s = sizes(dice)
    x = dice.normal(b, 5, t, s, std=3.0)
    return [
        Case("prime size", (x,)),
        Case("one row", (x[0, 0, :1].contiguous(),)),
        Case("non-contiguous", (strided(x),)),
        # exp overflows float32 at 88.
        Case("huge scores", (60 * x,)),
        Case("very negative scores", (x - 500,), vary="add"),
    ]


def attention(dice: Dice) -> list[Case]:
    # More than one block of any tiling, and the last of them not full.
    b, h, t = 3, 5, dice.prime(131, 137, 139, 149, 151)
    q, k, v = (dice.normal(b, h, t, HEAD_DIM) for _ in range(3))
    apart = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    return [
        Case("prime size", (q, k, v)),
        Case("one head, one clip", (q[:1, :1], k[:1, :1], v[:1, :1])),
        Case("heads side by side", tuple(apart)),
        Case("huge scores", (12 * q, 12 * k, v)),
        Case("large offset in k", (q, k + 8, v), vary="add"),
    ]


def mlp(dice: Dice) -> list[Case]:
    b, t, s = sizes(dice)
    a = dice.prime(397, 401, 409)
    x = dice.normal(b, t, s)
    rest = (
        dice.normal(a, s, std=s**-0.5),
        dice.normal(a),
        dice.normal(s, a, std=a**-0.5),
        dice.normal(s),
    )
    return [
        Case("prime size", (x, *rest)),
        Case("one position", (x[:1, :1], *rest)),
        Case("non-contiguous", (strided(x), *rest)),
        Case("large values", (30 * x, *rest)),
    ]


def block(dice: Dice) -> list[Case]:
    b, t, _ = sizes(dice)
    heads = 3
    s = heads * HEAD_DIM
    norm = (dice.normal(s, mean=1.5, std=0.3), dice.normal(s))
    maps = [
        (dice.normal(o, i, std=i**-0.5), dice.normal(o))
        for o, i in [(s, s)] * 4 + [(401, s), (s, 401)]
    ]
    (wq, bq), (wk, _), (wv, bv), (wo, bo), (w1, b1), (w2, b2) = maps
    weights = (*norm, wq, bq, wk, wv, bv, wo, bo, *norm, w1, b1, w2, b2, heads)
    x = dice.normal(b, t, s)
    return [
        Case("prime size", (x, *weights)),
        Case("large values", (100 * x, *weights)),
        Case("non-contiguous", (strided(x), *weights)),
    ]


def edges(slot: str, dice: Dice) -> list[Case]:
    """The breaking cases of a slot."""
    made: list[Case] = globals()[slot](dice)
    return made
