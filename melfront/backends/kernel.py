"""The front end of 64 frames side by side, in plain Python that numba compiles to vector code.

A *codelet* is a transform so short that every multiplication is written out. Each function here is
plain Python, which runs on numbers and on NumPy arrays as it stands; a loop over lanes, where each
lane is another frame and none needs its neighbour, is what a compiler turns into vectors.

Why the 400 samples of a frame, 16 x 25, need so little. X[k] is the sum over n of x[n] W^(n k) with
W = e^(-2 pi i/400). As 16 and 25 have no common factor, two numbers count the samples, and two the
frequencies, by the Chinese remainder theorem (Good, 1958; Thomas, 1963):

    n = 25 a + 16 b  modulo 400         a = 0 .. 15, b = 0 .. 24
    k = c modulo 16, k = d modulo 25    c = 0 .. 15, d = 0 .. 24

    W^(n k) = W^(25 a k) W^(16 b k) = e^(-2 pi i a c/16) e^(-2 pi i b d/25)

because W^25 is a 16th root of one, for which only k modulo 16 counts, and W^16 a 25th. So the
samples are a table of 16 groups of 25: transform each group, then each column, and nothing between
the two, where other ways to split a transform multiply by W^(a d). 25 = 5 x 5 and 16 = 4 x 4 have
common factors: there the multiplication, `rotated`, stays.

The groups are real, so their outputs d and 25 - d are conjugates, and 13 of the 25 columns will do.
Frequencies k and 400 - k are conjugates too, of the same power, and one of the two is in those 13.
No arithmetic mixes lanes: a loud frame cannot spoil a quiet neighbour.

LLVM vectorises a loop if it runs from 0, over slices or at constant distances in one array, stores
on every turn, and does not mix float32 with float64 beyond converting one to the other.

Numba keeps what it has compiled until this file changes, so all of it is here.

    # q: rows of LANES frames, 26 in each of 16 groups; every step works in place
    # n samples  M mel bins  F frames
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba.extending import register_jitable
from numpy.polynomial import Polynomial

from ..conventions import HOP_LENGTH, N_FFT, TRANSFORMERS
from .numpy_backend import of_natural_log

LANES = 64  # with fewer, LLVM unrolls the loops before it can vectorise them
GROUP = 27 * LANES  # from one group to the next; 26 would put every fourth in one set of a cache
N_GROUPS = 16
# The columns that are computed, in the order in which `dft25` leaves them.
COLUMNS = (0, 5, 10, 1, 6, 11, 16, 21, 2, 7, 12, 17, 22)

# A product and a sum may become one instruction, and 0 may lose its sign; sums keep their order.
FLOATS: dict[str, Any] = {"fastmath": {"contract", "nsz"}, "error_model": "numpy", "nogil": True}
WRAPPERS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # they take long to compile
inlined = register_jitable(forceinline=True, **WRAPPERS, **FLOATS)


def cosine(turns: float) -> float:
    return math.cos(2 * math.pi * turns)


def sine(turns: float) -> float:
    return math.sin(2 * math.pi * turns)


COS_1, COS_2, SIN_1, SIN_2 = cosine(1 / 5), cosine(2 / 5), sine(1 / 5), sine(2 / 5)
COS_16 = tuple(tuple(cosine(b * c / 16) for b in range(4)) for c in range(4))
SIN_16 = tuple(tuple(sine(b * c / 16) for b in range(4)) for c in range(4))
COS_25 = tuple(tuple(cosine(b * d / 25) for b in range(5)) for d in range(3))
SIN_25 = tuple(tuple(sine(b * d / 25) for b in range(5)) for d in range(3))


@inlined
def rotated(re, im, cos, sin):
    """(re + i im) (cos - i sin)"""
    return re * cos + im * sin, im * cos - re * sin


@inlined
def dft4(r0, i0, r1, i1, r2, i2, r3, i3):
    """Four complex numbers to their transform, real and imaginary parts in turn."""
    a, b, c, d = r0 + r2, i0 + i2, r0 - r2, i0 - i2
    e, f, g, h = r1 + r3, i1 + i3, r1 - r3, i1 - i3
    return a + e, b + f, c + h, d - g, a - e, b - f, c - h, d + g


@inlined
def real_dft5(x0, x1, x2, x3, x4):
    """Five real numbers to outputs 0, 1 and 2; 3 and 4 are the conjugates of 2 and 1."""
    s1, d1, s2, d2 = x1 + x4, x1 - x4, x2 + x3, x2 - x3
    r1, i1 = x0 + COS_1 * s1 + COS_2 * s2, -(SIN_1 * d1) - SIN_2 * d2
    r2, i2 = x0 + COS_2 * s1 + COS_1 * s2, SIN_1 * d2 - SIN_2 * d1
    return x0 + (s1 + s2), r1, i1, r2, i2


@inlined
def dft5(r0, i0, r1, i1, r2, i2, r3, i3, r4, i4):
    """Five complex numbers to their transform: that of the real parts, plus i times the others'."""
    a0, a1, b1, a2, b2 = real_dft5(r0, r1, r2, r3, r4)
    c0, c1, d1, c2, d2 = real_dft5(i0, i1, i2, i3, i4)
    return a0, c0, a1 - d1, b1 + c1, a2 - d2, b2 + c2, a2 + d2, c2 - b2, a1 + d1, c1 - b1


@inlined
def dft25(samples, places, window, q):
    """25 real numbers, windowed, to 13 complex ones, COLUMNS, in the rows of one group of q.

    Number b of each lane begins at samples[places[b]]. Of b = 5 u + v the first step transforms
    over u, the second over v.
    """
    for v in range(5):
        real_dft5_windowed(samples, places[v:], window[v:], q[(1 + v) * LANES :])
    for w in range(LANES):
        re, r5, i5, r10, i10 = real_dft5(
            q[w + LANES], q[w + 2 * LANES], q[w + 3 * LANES], q[w + 4 * LANES], q[w + 5 * LANES]
        )
        q[w], q[w + LANES] = re, 0.0
        q[w + 2 * LANES], q[w + 3 * LANES], q[w + 4 * LANES], q[w + 5 * LANES] = r5, i5, r10, i10
    for d in range(1, 3):  # columns 1, 6, 11, 16, 21 and then 2, 7, 12, 17, 22
        dft5_rotated(q[(10 * d - 4) * LANES :], d)


@inlined
def real_dft5_windowed(samples, places, window, q):
    """Numbers 0, 5 .. 20 to five rows of q that are five rows apart."""
    x0, x1, x2 = samples[places[0] :], samples[places[5] :], samples[places[10] :]
    x3, x4 = samples[places[15] :], samples[places[20] :]
    w0, w1, w2, w3, w4 = window[0], window[5], window[10], window[15], window[20]
    for w in range(LANES):
        re, r1, i1, r2, i2 = real_dft5(x0[w] * w0, x1[w] * w1, x2[w] * w2, x3[w] * w3, x4[w] * w4)
        q[w], q[w + 5 * LANES], q[w + 10 * LANES] = re, r1, i1
        q[w + 15 * LANES], q[w + 20 * LANES] = r2, i2


@inlined
def dft5_rotated(q, d):
    """Five real rows and five imaginary ones, turned by v d/25, to five pairs of rows."""
    cos, sin = COS_25[d], SIN_25[d]
    for w in range(LANES):
        r1, i1 = rotated(q[w + LANES], q[w + 6 * LANES], cos[1], sin[1])
        r2, i2 = rotated(q[w + 2 * LANES], q[w + 7 * LANES], cos[2], sin[2])
        r3, i3 = rotated(q[w + 3 * LANES], q[w + 8 * LANES], cos[3], sin[3])
        r4, i4 = rotated(q[w + 4 * LANES], q[w + 9 * LANES], cos[4], sin[4])
        r0, i0, r1, i1, r2, i2, r3, i3, r4, i4 = dft5(
            q[w], q[w + 5 * LANES], r1, i1, r2, i2, r3, i3, r4, i4
        )
        q[w], q[w + LANES], q[w + 2 * LANES], q[w + 3 * LANES] = r0, i0, r1, i1
        q[w + 4 * LANES], q[w + 5 * LANES], q[w + 6 * LANES] = r2, i2, r3
        q[w + 7 * LANES], q[w + 8 * LANES], q[w + 9 * LANES] = i3, r4, i4


@inlined
def power_of_dft16(q):
    """One column of 16 groups, a pair of rows in each, to |X|^2, where the real parts were.

    Of a = 4 u + v the first step transforms over u, the second over v. Output c = s + 4 t comes to
    lie in group 4 s + t.
    """
    for v in range(4):
        dft4_of_groups(q[v * GROUP :])
    for s in range(4):
        power_of_dft4(q[4 * s * GROUP :], s)


@inlined
def dft4_of_groups(q):
    """The transform of four groups that are four groups apart."""
    for w in range(LANES):
        r0, i0, r1, i1 = q[w], q[w + LANES], q[w + 4 * GROUP], q[w + LANES + 4 * GROUP]
        r2, i2 = q[w + 8 * GROUP], q[w + LANES + 8 * GROUP]
        r3, i3 = q[w + 12 * GROUP], q[w + LANES + 12 * GROUP]
        r0, i0, r1, i1, r2, i2, r3, i3 = dft4(r0, i0, r1, i1, r2, i2, r3, i3)
        q[w], q[w + LANES], q[w + 4 * GROUP], q[w + LANES + 4 * GROUP] = r0, i0, r1, i1
        q[w + 8 * GROUP], q[w + LANES + 8 * GROUP] = r2, i2
        q[w + 12 * GROUP], q[w + LANES + 12 * GROUP] = r3, i3


@inlined
def power_of_dft4(q, s):
    """Four neighbouring groups, turned by v s/16, transformed and squared."""
    cos, sin = COS_16[s], SIN_16[s]
    for w in range(LANES):
        r1, i1 = rotated(q[w + GROUP], q[w + LANES + GROUP], cos[1], sin[1])
        r2, i2 = rotated(q[w + 2 * GROUP], q[w + LANES + 2 * GROUP], cos[2], sin[2])
        r3, i3 = rotated(q[w + 3 * GROUP], q[w + LANES + 3 * GROUP], cos[3], sin[3])
        r0, i0, r1, i1, r2, i2, r3, i3 = dft4(q[w], q[w + LANES], r1, i1, r2, i2, r3, i3)
        q[w], q[w + GROUP] = r0 * r0 + i0 * i0, r1 * r1 + i1 * i1
        q[w + 2 * GROUP], q[w + 3 * GROUP] = r2 * r2 + i2 * i2, r3 * r3 + i3 * i3


@inlined
def power_of_dft400(samples, places, window, q):
    """400 samples of each lane, windowed, to the power of frequencies 0 .. 200.

    Number 25 a + b of places and window is for sample 25 a + 16 b, modulo 400.
    """
    for a in range(16):
        dft25(samples, places[25 * a :], window[25 * a :], q[a * GROUP :])
    for column in range(len(COLUMNS)):
        power_of_dft16(q[2 * column * LANES :])


# --- from a clip to features ----------------------------------------------------------------------

HALF = N_FFT // 2
ROW = LANES + 4  # from one row of the turned clip to the next: LANES frames reach into 3 hops more

F4 = np.float32
FLOOR = F4(TRANSFORMERS.log_floor)
# A power is m 2^e with m in 2/3 .. 4/3, whose bits begin where those of 2/3 do.
TWO_THIRDS, MANTISSA, N_BITS = np.int32(0x3F2AAAAB), np.int32(0x7FFFFF), np.int32(23)
SCALE, OFFSET = of_natural_log(TRANSFORMERS)
PER_LN, PER_OCTAVE, AT_ONE = F4(SCALE), F4(SCALE * np.log(2)), F4(OFFSET)
# (ln(1 + f) - f) / f^2 for f in -1/3 .. 1/3, to 1e-8: a polynomial through Chebyshev's nodes.
NODES = np.cos(np.pi * (np.arange(8) + 0.5) / 8) / 3
LOG = Polynomial.fit(NODES, SCALE * (np.log1p(NODES) - NODES) / NODES**2, 7).convert().coef
P0, P1, P2, P3, P4, P5, P6, P7 = map(F4, LOG)


@inlined
def feature(power):
    """A power of at least 1e-10 to its feature, float32: numbers or arrays."""
    bits = np.int32(F4(power).view(np.int32) - TWO_THIRDS)
    f = np.int32((bits & MANTISSA) + TWO_THIRDS).view(np.float32) - F4(1)
    octaves, z = F4(np.int32(bits >> N_BITS)), f * f
    high = (f * P7 + P6) * z + (f * P5 + P4)
    return ((high * z + (f * P3 + P2)) * z + (f * P1 + P0)) * z + (
        f * PER_LN + (octaves * PER_OCTAVE + AT_ONE)
    )


@inlined
def copy_reflected(clip, total, first, segment):
    """Samples first .. of the clip padded to `total`, mirrored at both edges, to a segment."""
    n, length = len(clip), len(segment)
    begin, end = max(first, 0), min(first + length, n)
    source, to = clip[begin : max(begin, end)], segment[min(begin - first, length) :]
    for i in range(len(source)):
        to[i] = source[i]
    after = segment[min(max(0, n - first), length) :]
    for i in range(len(after)):
        after[i] = 0
    for j in range(first, min(0, first + length)):
        segment[j - first] = clip[-j] if -j < n else 0
    for j in range(max(total, first), min(total + HALF, first + length)):
        if 2 * (total - 1) - j < n:
            segment[j - first] = clip[2 * (total - 1) - j]


@inlined
def turn(samples, n_hops, turned):
    """Sample 160 r + j to row j, place r: eight rows at a time, to use up a cache line."""
    for j in range(0, HOP_LENGTH, 8):
        for r in range(n_hops):
            source, to = samples[r * HOP_LENGTH + j :], turned[j * ROW + r :]
            for k in range(8):
                to[k * ROW] = source[k]


@inlined
def mel_of_frames(q, first, last, rows, weights, total, mel):
    """Weighted sums of the frequencies first .. last of a table, two at a time, as float32."""
    for i in range(first, last, 2):
        a, b = q[rows[i] * LANES :], q[rows[i + 1] * LANES :]
        weight_a, weight_b = weights[i], weights[i + 1]
        if i == first:
            for w in range(LANES):
                total[w] = a[w] * weight_a + b[w] * weight_b
        else:
            for w in range(LANES):
                total[w] += a[w] * weight_a + b[w] * weight_b
    for w in range(LANES):
        mel[w] = F4(total[w])


@inlined
def loudest_sample(turned):
    """The size of the loudest sample, as the bits of a float32; NaN and infinity exceed all."""
    bits = np.int32(0)
    for j in range(HOP_LENGTH):
        row = turned[j * ROW : j * ROW + LANES]
        for w in range(LANES):
            bits = np.int32(max(bits, F4(abs(row[w])).view(np.int32)))
    return bits


@inlined
def features_of(mel, out, top):
    """Features of LANES powers, and the largest power of each lane so far, as its bits.

    The bits of positive floats order as the floats do, and integers have no NaN to look out for.
    """
    for w in range(LANES):
        out[w] = feature(max(mel[w], FLOOR))
        top[w] = max(top[w], F4(mel[w]).view(np.int32))


def before_clamp(
    clip, total, n_heard, out, places, window, starts, rows, weights,
    segment, turned, top,
):  # fmt: skip
    """The first H features of a clip (n,) padded to `total`, before the clamp, to out (M, F).

    H may exceed F: frames of extra padding count for the maximum alone. The arguments after `out`
    are of `numba_backend.tables` and `scratch`. Returns the largest mel power and loudest sample.
    """
    # Allocated here because numba aligns memory for vectors, and NumPy does not. Arrays of other
    # dtypes are arguments: to allocate each of them would take longer to compile.
    q, sums = np.empty(N_GROUPS * GROUP), np.empty(LANES)
    mel, spare = np.empty(LANES, F4), np.empty(LANES, F4)
    n_kept = min(n_heard, out.shape[1])
    loudest = np.int32(0)
    for f in range(0, n_heard, LANES):
        first = f * HOP_LENGTH - HALF
        n_hops = min(LANES, n_heard - f) + 3  # other lanes keep old samples: see below
        samples = segment[: n_hops * HOP_LENGTH]
        copy_reflected(clip, total, first, samples)
        turn(samples, n_hops, turned)
        loudest = max(loudest, loudest_sample(turned))
        power_of_dft400(turned, places, window, q)
        whole = f + LANES <= n_kept
        for m in range(len(out)):
            mel_of_frames(q, starts[m], starts[m + 1], rows, weights, sums, mel)
            for w in range(n_heard - f, LANES):  # of old samples, not of a frame
                mel[w] = 0
            features_of(mel, out[m, f : f + LANES] if whole else spare, top)
            if not whole:
                features = out[m, f:n_kept]
                for w in range(len(features)):
                    features[w] = spare[w]
    for i in range(max(0, n_heard * HOP_LENGTH - HALF), len(clip)):  # after the last hop
        loudest = max(loudest, F4(abs(clip[i])).view(np.int32))
    power = np.int32(0)
    for w in range(LANES):
        power = max(power, top[w])
    return np.int32(power).view(np.float32), np.int32(loudest).view(np.float32)


def clamp(out, n_heard, least):
    """Raise the features of H frames to `least`, and give it to all others."""
    for m in range(len(out)):
        heard, silent = out[m, :n_heard], out[m, n_heard:]
        for f in range(len(heard)):
            heard[f] = np.maximum(heard[f], least)
        for f in range(len(silent)):
            silent[f] = least
