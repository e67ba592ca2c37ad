"""The whole front end in numba: two frames in each complex number, and 64 frames side by side.

A transform is linear: of frame f plus i times frame f + 32, what X[k] and X[400 - k] have in common
is the spectrum of the one, and in what they differ that of the other. So every number is complex,
and real ones need no code of their own.

The 400 samples of a frame are 16 groups of 25, by the Chinese remainder theorem (Good and Thomas):

    sample 25 a + 16 b, modulo 400       a = 0 .. 15, b = 0 .. 24
    frequency k                          c = k modulo 16, d = k modulo 25

One transform is over b, the other over a, with no factors between the two.

The innermost loops run over lanes, each another frame. LLVM makes vectors of a loop that starts at
0 and goes over slices of one array at constant distances; one over few lanes it unrolls instead.

Sums are float64, in the order in which they are written; features are float32. One thread computes
a clip. Nothing is checked: samples must be finite.

    melfront benchmarks kernel log_mel benchmarks/examples/log_mel_numba.py

    # B clips  L samples  M mel bins  F = 3000 frames  K = 201 frequencies
"""
# mypy: allow-untyped-defs

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numba
import numpy as np
from numba import f4, f8, i4

ARRAYS = "numpy"

LANES = 32
ROW = 2 * LANES  # the real parts of a number, then the imaginary ones
HOPS = ROW + 2  # the frames of a tile reach into two hops more

# contract: a product and a sum may become one instruction. nnan, nsz: times 0 is 0.
FLOATS = {"fastmath": {"contract", "nnan", "nsz"}, "error_model": "numpy", "nogil": True}
inlined = numba.njit(forceinline=True, **FLOATS)


def angles(m, n):
    """cos and sin of 2 pi s v / n, where s and v are below m."""
    turns = 2 * np.pi * np.outer(range(m), range(m)) / n
    return [tuple(map(tuple, f(turns).tolist())) for f in (np.cos, np.sin)]


COS16, SIN16 = angles(4, 16)
COS25, SIN25 = angles(5, 25)
COS1, COS2, SIN1, SIN2 = (f(2 * np.pi * s / 5) for f in (np.cos, np.sin) for s in (1, 2))


@inlined
def turned(re, im, cos, sin):
    """(re + i im) (cos - i sin)"""
    return re * cos + im * sin, im * cos - re * sin


@inlined
def dft4(q, step, s):
    """Rows 0, step .. 3 step to their transform in place; row v is turned by s v / 16 first."""
    cos, sin = COS16[s], SIN16[s]
    for w in range(LANES):
        r0, i0 = q[w], q[w + LANES]
        r1, i1 = turned(q[w + step], q[w + step + LANES], cos[1], sin[1])
        r2, i2 = turned(q[w + 2 * step], q[w + 2 * step + LANES], cos[2], sin[2])
        r3, i3 = turned(q[w + 3 * step], q[w + 3 * step + LANES], cos[3], sin[3])
        a, b, c, d = r0 + r2, i0 + i2, r0 - r2, i0 - i2
        e, f, g, h = r1 + r3, i1 + i3, r1 - r3, i1 - i3
        q[w], q[w + LANES] = a + e, b + f
        q[w + step], q[w + step + LANES] = c + h, d - g
        q[w + 2 * step], q[w + 2 * step + LANES] = a - e, b - f
        q[w + 3 * step], q[w + 3 * step + LANES] = c - h, d + g


@inlined
def dft5(q, step, s):
    """Rows 0, step .. 4 step to their transform in place; row v is turned by s v / 25 first."""
    cos, sin = COS25[s], SIN25[s]
    for w in range(LANES):
        r0, i0 = q[w], q[w + LANES]
        r1, i1 = turned(q[w + step], q[w + step + LANES], cos[1], sin[1])
        r2, i2 = turned(q[w + 2 * step], q[w + 2 * step + LANES], cos[2], sin[2])
        r3, i3 = turned(q[w + 3 * step], q[w + 3 * step + LANES], cos[3], sin[3])
        r4, i4 = turned(q[w + 4 * step], q[w + 4 * step + LANES], cos[4], sin[4])
        a, b, c, d = r1 + r4, i1 + i4, r2 + r3, i2 + i3
        e, f, g, h = r1 - r4, i1 - i4, r2 - r3, i2 - i3
        q[w], q[w + LANES] = r0 + a + c, i0 + b + d
        re, im = r0 + COS1 * a + COS2 * c, i0 + COS1 * b + COS2 * d
        x, y = SIN1 * f + SIN2 * h, SIN1 * e + SIN2 * g
        q[w + step], q[w + step + LANES] = re + x, im - y
        q[w + 4 * step], q[w + 4 * step + LANES] = re - x, im + y
        re, im = r0 + COS2 * a + COS1 * c, i0 + COS2 * b + COS1 * d
        x, y = SIN2 * f - SIN1 * h, SIN2 * e - SIN1 * g
        q[w + 2 * step], q[w + 2 * step + LANES] = re + x, im - y
        q[w + 3 * step], q[w + 3 * step + LANES] = re - x, im + y


@inlined
def dft400(q):
    """Row 25 a + b to row `row_of` k. b = 5 u + v and a = 4 u + v: over u, then over v."""
    for a in range(16):
        group = q[25 * a * ROW :]
        for v in range(5):
            dft5(group[v * ROW :], 5 * ROW, 0)
        for s in range(5):
            dft5(group[5 * s * ROW :], ROW, s)
    for d in range(25):
        column = q[d * ROW :]
        for v in range(4):
            dft4(column[25 * v * ROW :], 100 * ROW, 0)
        for s in range(4):
            dft4(column[100 * s * ROW :], 25 * ROW, s)


@inlined
def power_of_both(q, row_of):
    """Row `row_of` k to four times the power of its two frames, for k up to 200."""
    for k in range(201):
        a, b = q[row_of[k] * ROW :], q[row_of[-k] * ROW :]
        for w in range(LANES):
            first_re, first_im = a[w] + b[w], a[w + LANES] - b[w + LANES]
            second_re, second_im = a[w + LANES] + b[w + LANES], b[w] - a[w]
            a[w] = first_re * first_re + first_im * first_im
            a[w + LANES] = second_re * second_re + second_im * second_im


ONE, PER_LN, PER_OCTAVE = np.float32(1), np.float32(0.5 / np.log(10)), np.float32(np.log10(2) / 4)
C3, C5, C7 = np.float32(1 / 3), np.float32(1 / 5), np.float32(1 / 7)
HALF = np.int32(0x3F3504F3)  # the bits of sqrt(1/2), m's least


@inlined
def feature(power):
    """(log10 + 4) / 4. A float is m 2^e, and ln m is 2 artanh(x) of x = (m - 1) / (m + 1)."""
    bits = np.int32(np.float32(power).view(np.int32) - HALF)
    octaves = np.float32(np.int32(bits >> np.int32(23)))
    m = np.int32((bits & np.int32(0x7FFFFF)) + HALF).view(np.float32)
    x = (m - ONE) / (m + ONE)
    z = x * x
    return PER_LN * (x + x * z * (C3 + z * (C5 + z * C7))) + (PER_OCTAVE * octaves + ONE)


INTEGERS, DOUBLES = (numba.types.Array(t, 1, "C", readonly=True) for t in (i4, f8))
CONSTANTS = (INTEGERS, DOUBLES, INTEGERS, INTEGERS, INTEGERS, DOUBLES)


# The signature makes numba compile when the file is loaded, not in the first call.
@numba.njit(numba.void(f4[::1], i4, *CONSTANTS, f4[:, ::1]), **FLOATS)
def features(clip, heard, places, window, row_of, starts, rows, weights, out):
    """Features (M, F) of a mirrored clip, of which so many frames hear more than padding.

    The weights of mel bin m begin at starts[m]; weight i is for the power in row rows[i].
    """
    x, q = np.empty(160 * HOPS, np.float32), np.empty(400 * ROW)
    mel, top = np.empty(ROW), np.zeros(ROW)
    for f in range(0, heard, ROW):
        for j in range(160):  # lay sample j of each hop side by side
            source, to = clip[160 * f + j :], x[j * HOPS :]
            for r in range(HOPS):
                to[r] = source[160 * r]
        for i in range(400):
            frames, row, weight = x[places[i] :], q[i * ROW :], window[i]
            for w in range(ROW):
                row[w] = frames[w] * weight
        dft400(q)
        power_of_both(q, row_of)
        for m in range(len(out)):
            mel[:] = 0
            for i in range(starts[m], starts[m + 1]):
                power, weight = q[rows[i] * ROW :], weights[i]
                for w in range(ROW):
                    mel[w] += power[w] * weight
            to = out[m, f : min(f + ROW, heard)]
            for w in range(len(to)):
                to[w] = mel[w]
                top[w] = max(top[w], mel[w])
    least = np.float32(max(1e-10, 1e-8 * top.max()))  # 80 dB below the loudest power
    for m in range(len(out)):
        to = out[m, :heard]
        for f in range(len(to)):
            to[f] = feature(max(to[f], least))
        out[m, heard:] = feature(least)


NUMBERS = np.arange(400)
SAMPLES = (25 * (NUMBERS // 25) + 16 * (NUMBERS % 25)) % 400
PLACES = (SAMPLES % 160 * HOPS + SAMPLES // 160).astype(np.int32)
WINDOW = np.sin(np.pi / 400 * SAMPLES) ** 2
C, D = NUMBERS % 16, NUMBERS % 25
ROW_OF = (100 * (C % 4) + 25 * (C // 4) + 5 * (D % 5) + D // 5).astype(np.int32)


@lru_cache(maxsize=16)
def filters(n_mels):
    """Triangles on Slaney's mel scale, each of area 1, as `features` takes them."""
    mels = np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), n_mels + 2)[:, None]  # to 8000 Hz
    corners = np.where(mels < 15, 200 / 3 * mels, 1000 * 6.4 ** ((mels - 15) / 27))
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    hz = np.arange(201) * 40.0
    slopes = np.minimum((hz - low) / (middle - low), (high - hz) / (high - middle))
    bank = np.maximum(0, slopes) * 2 / (high - low)  # (M, K)
    bins, k = np.nonzero(bank)
    starts = np.searchsorted(bins, np.arange(n_mels + 1)).astype(np.int32)
    return starts, ROW_OF[k], bank[bins, k] / 4  # of `power_of_both`


def log_mel(audio, n_mels):
    clips = np.atleast_2d(audio)[:, :480_000]  # (B, L)
    n = clips.shape[1]
    heard = min(3000, -(-(n + 200) // 160))  # frames that hear more than padding
    out = np.empty((len(clips), n_mels, 3000), np.float32)  # (B, M, F)

    def compute(clip, to):
        x = np.zeros(160 * (3000 + HOPS), np.float32)  # zeros are cheap until touched
        x[200 : 200 + n] = clip
        x[:200] = x[400:200:-1]
        x[480_200:480_400] = x[480_198:479_998:-1]
        features(x, heard, PLACES, WINDOW, ROW_OF, *filters(n_mels), to)

    n_threads = min(len(clips), numba.config.NUMBA_NUM_THREADS)
    if n_threads == 1:
        list(map(compute, clips, out))
    else:
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(compute, clips, out))
    return out.reshape(*audio.shape[:-1], n_mels, 3000)
