"""The whole front end in C: compiled when the file is loaded, called with ctypes.

A vector holds one number of each of several frames: an operation serves them all, and none needs
another lane. The 16 x 13 complex numbers of such a tile take 26 KB with AVX-512: they stay in the
first-level cache from the samples to the mel bins.

The 400 samples of a frame are 16 groups of 25, by the Chinese remainder theorem (Good and Thomas):

    sample 25 a + 16 b, modulo 400       a = 0 .. 15, b = 0 .. 24
    frequency k                          c = k modulo 16, d = k modulo 25

One transform is over b, the other over a, with no factors between the two. The groups are real, so
that d and 25 - d are conjugates: 13 of the 25 do, because the power of k is that of 400 - k.

Sums are float64, in the order in which they are written; features are float32. One thread computes
a clip. Nothing is checked: samples must be finite.

    melfront benchmarks kernel log_mel benchmarks/examples/log_mel_c.py

    # B clips  L samples  M mel bins  F = 3000 frames  K = 201 frequencies
"""
# mypy: allow-untyped-defs

import ctypes
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

ARRAYS = "numpy"

SOURCE = r"""
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// As many lanes of float64 as a register of this CPU has.
#if defined(__AVX512F__)
enum { LANES = 8 };
#elif defined(__AVX__)
enum { LANES = 4 };
#else
enum { LANES = 2 };
#endif
enum { HOP = 160, N_FFT = 400, LENGTH = 480000, FRAMES = LENGTH / HOP };
enum { HOPS = LANES + 2 };  // the frames of a tile reach into two hops more

typedef double lanes __attribute__((vector_size(8 * LANES)));
typedef int64_t masks __attribute__((vector_size(8 * LANES)));
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef struct { lanes re, im; } number;  // a complex number of each frame

// of 2 pi d v / 25 and of 2 pi s v / 16
typedef struct { double cos25[3][5], sin25[3][5], cos16[4][4], sin16[4][4]; } angles;

#define COS1 0.30901699437494742410  // of 2 pi / 5
#define COS2 -0.80901699437494742410
#define SIN1 0.95105651629515357212
#define SIN2 0.58778525229247312917

static inline lanes larger(lanes a, lanes b) {
    const masks more = (masks)(a > b);
    return (lanes)(((masks)a & more) | ((masks)b & ~more));
}

static inline number turned(number x, double cos, double sin) {  // x (cos - i sin)
    return (number){x.re * cos + x.im * sin, x.im * cos - x.re * sin};
}

// Five real numbers to outputs 0, 1 and 2; 3 and 4 are the conjugates of 2 and 1.
static inline void real_dft5(lanes x0, lanes x1, lanes x2, lanes x3, lanes x4,
                             lanes *y0, number *y1, number *y2) {
    const lanes s1 = x1 + x4, d1 = x1 - x4, s2 = x2 + x3, d2 = x2 - x3;
    *y0 = x0 + (s1 + s2);
    *y1 = (number){x0 + COS1 * s1 + COS2 * s2, -SIN1 * d1 - SIN2 * d2};
    *y2 = (number){x0 + COS2 * s1 + COS1 * s2, SIN1 * d2 - SIN2 * d1};
}

// Five complex numbers, each turned first: the transform of their real parts, plus i times that of
// their imaginary parts.
static inline void dft5(const number *x, const double *cos, const double *sin, number *y) {
    number z[5], a1, a2, b1, b2;
    for (int v = 0; v < 5; v++) z[v] = turned(x[v], cos[v], sin[v]);
    real_dft5(z[0].re, z[1].re, z[2].re, z[3].re, z[4].re, &y[0].re, &a1, &a2);
    real_dft5(z[0].im, z[1].im, z[2].im, z[3].im, z[4].im, &y[0].im, &b1, &b2);
    y[1] = (number){a1.re - b1.im, a1.im + b1.re};
    y[2] = (number){a2.re - b2.im, a2.im + b2.re};
    y[3] = (number){a2.re + b2.im, b2.re - a2.im};
    y[4] = (number){a1.re + b1.im, b1.re - a1.im};
}

static inline void dft4(number x0, number x1, number x2, number x3, number *y) {
    const number a = {x0.re + x2.re, x0.im + x2.im}, b = {x0.re - x2.re, x0.im - x2.im};
    const number c = {x1.re + x3.re, x1.im + x3.im}, d = {x1.re - x3.re, x1.im - x3.im};
    y[0] = (number){a.re + c.re, a.im + c.im};
    y[1] = (number){b.re + d.im, b.im - d.re};
    y[2] = (number){a.re - c.re, a.im - c.im};
    y[3] = (number){b.re - d.im, b.im + d.re};
}

static inline lanes sample(const float *from, double window) {
    floats x;
    memcpy(&x, from, sizeof x);
    return __builtin_convertvector(x, lanes) * window;
}

// 25 samples, b = 5 u + v: over u, then over v. To d = 0, 5, 10, then 1, 6 .. 21, then 2, 7 .. 22.
static void dft25(const float *x, const int32_t *place, const double *w, const angles *t,
                  number *y) {
    lanes zeroth[5];
    number first[5], second[5];
    for (int v = 0; v < 5; v++)
        real_dft5(sample(x + place[v], w[v]), sample(x + place[v + 5], w[v + 5]),
                  sample(x + place[v + 10], w[v + 10]), sample(x + place[v + 15], w[v + 15]),
                  sample(x + place[v + 20], w[v + 20]), zeroth + v, first + v, second + v);
    real_dft5(zeroth[0], zeroth[1], zeroth[2], zeroth[3], zeroth[4], &y[0].re, y + 1, y + 2);
    y[0].im = (lanes){0};
    dft5(first, t->cos25[1], t->sin25[1], y + 3);
    dft5(second, t->cos25[2], t->sin25[2], y + 8);
}

// One column of the 16 groups, a = 4 u + v: over u, then over v. The power of c goes to group c.
static void power_of_dft16(number q[16][13], int column, const angles *t) {
    number y[4][4], z[4];
    for (int v = 0; v < 4; v++)
        dft4(q[v][column], q[v + 4][column], q[v + 8][column], q[v + 12][column], y[v]);
    for (int s = 0; s < 4; s++) {
        const double *cos = t->cos16[s], *sin = t->sin16[s];
        dft4(y[0][s], turned(y[1][s], cos[1], sin[1]), turned(y[2][s], cos[2], sin[2]),
             turned(y[3][s], cos[3], sin[3]), z);
        for (int r = 0; r < 4; r++)
            q[s + 4 * r][column].re = z[r].re * z[r].re + z[r].im * z[r].im;
    }
}

// Samples first .. of a clip of n samples and silence up to 30 s, mirrored at both edges.
static void copy_reflected(const float *clip, ptrdiff_t n, ptrdiff_t first, float *to) {
    for (ptrdiff_t i = first; i < first + HOPS * HOP; i++) {
        const ptrdiff_t from = i < 0 ? -i : i < LENGTH ? i : 2 * (LENGTH - 1) - i;
        *to++ = from < n ? clip[from] : 0;
    }
}

// Power to feature, (log10 + 4) / 4. Least has the bits of the least power: floats of at least 0
// order as their bits do. A float is m 2^e, and ln m is 2 artanh(x) of x = (m - 1) / (m + 1).
static inline float feature(float power, int32_t least) {
    const int32_t half = 0x3f3504f3;  // the bits of sqrt(1/2), m's least
    int32_t bits;
    memcpy(&bits, &power, 4);
    bits = (bits > least ? bits : least) - half;
    const float e = (float)(bits >> 23);
    bits = (bits & 0x7fffff) + half;
    float m;
    memcpy(&m, &bits, 4);
    const float x = (m - 1) / (m + 1), z = x * x;
    const float series = x * z * (0.33333333f + z * (0.2f + z * 0.14285714f));
    return 0.21714724f * (x + series) + (0.075257499f * e + 1);  // 2 / (4 ln 10), log10(2) / 4
}

// Features of a clip of n samples. The weights of mel bin m begin at starts[m], and weight i is for
// the power that is number rows[i] of q.
void log_mel(const float *clip, ptrdiff_t n, const int32_t *places, const double *window,
             const angles *t, ptrdiff_t n_mels, const int32_t *starts, const int32_t *rows,
             const double *weights, float *out) {
    float edge[HOPS * HOP], x[HOP * HOPS] __attribute__((aligned(64)));
    number q[16][13];
    const number *power = q[0];
    lanes top = {0};
    ptrdiff_t heard = (n + N_FFT / 2 + HOP - 1) / HOP;  // later frames hear only padding
    heard = (heard + LANES - 1) / LANES * LANES;        // FRAMES is a multiple of LANES too
    if (heard > FRAMES) heard = FRAMES;
    for (ptrdiff_t f = 0; f < heard; f += LANES) {
        const ptrdiff_t first = f * HOP - N_FFT / 2;
        const int inside = first >= 0 && first + HOPS * HOP <= n;
        const float *samples = inside ? clip + first : edge;
        if (!inside) copy_reflected(clip, n, first, edge);
        for (int r = 0; r < HOPS; r++)  // lay sample j of each hop side by side
            for (int j = 0; j < HOP; j++) x[j * HOPS + r] = samples[r * HOP + j];
        for (int a = 0; a < 16; a++) dft25(x, places + 25 * a, window + 25 * a, t, q[a]);
        for (int i = 0; i < 13; i++) power_of_dft16(q, i, t);
        for (ptrdiff_t m = 0; m < n_mels; m++) {
            lanes sum = {0};
            for (int i = starts[m]; i < starts[m + 1]; i++) sum += power[rows[i]].re * weights[i];
            top = larger(sum, top);
            const floats mel = __builtin_convertvector(sum, floats);
            memcpy(out + m * FRAMES + f, &mel, sizeof mel);
        }
    }
    float floor = 1e-10f;
    for (int w = 0; w < LANES; w++)  // 80 dB below the loudest power
        if (top[w] * 1e-8 > floor) floor = (float)(top[w] * 1e-8);
    int32_t least;
    memcpy(&least, &floor, 4);
    for (ptrdiff_t m = 0; m < n_mels; m++) {
        float *row = out + m * FRAMES;
        for (ptrdiff_t f = 0; f < heard; f++) row[f] = feature(row[f], least);
        for (ptrdiff_t f = heard; f < FRAMES; f++) row[f] = feature(0, least);
    }
}

int hops(void) { return HOPS; }
"""

FLAGS = ["-O3", "-march=native", "-shared", "-fPIC", "-x", "c", "-"]


def compiled():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "log_mel.so")
        command = [os.environ.get("CC", "cc"), "-o", path, *FLAGS]
        subprocess.run(command, input=SOURCE.encode(), check=True)
        return ctypes.CDLL(path)


LIBRARY = compiled()
FLOATS, DOUBLES, INTEGERS = (
    np.ctypeslib.ndpointer(dtype, flags="C_CONTIGUOUS")
    for dtype in (np.float32, np.float64, np.int32)
)
SIZE = ctypes.c_ssize_t
LIBRARY.log_mel.argtypes = [
    FLOATS, SIZE, INTEGERS, DOUBLES, DOUBLES, SIZE, INTEGERS, INTEGERS, DOUBLES, FLOATS,
]  # fmt: skip
LIBRARY.log_mel.restype = None
THREADS = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)

GROUP, NUMBER = np.divmod(np.arange(400), 25)
SAMPLE = (25 * GROUP + 16 * NUMBER) % 400
PLACES = (SAMPLE % 160 * LIBRARY.hops() + SAMPLE // 160).astype(np.int32)
WINDOW = np.sin(np.pi / 400 * SAMPLE) ** 2
TURNS = np.outer(range(3), range(5)) / 25, np.outer(range(4), range(4)) / 16
ANGLES = np.concatenate([f(2 * np.pi * x).ravel() for x in TURNS for f in (np.cos, np.sin)])
COLUMNS = (0, 5, 10, 1, 6, 11, 16, 21, 2, 7, 12, 17, 22)  # d, in the order of dft25


@lru_cache(maxsize=16)
def filters(n_mels):
    """Triangles on Slaney's mel scale, each of area 1: where a bin's weights begin, and of each
    weight the place of its power in q and the weight."""
    mels = np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), n_mels + 2)[:, None]  # to 8000 Hz
    corners = np.where(mels < 15, 200 / 3 * mels, 1000 * 6.4 ** ((mels - 15) / 27))
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    hz = np.arange(201) * 40.0
    slopes = np.minimum((hz - low) / (middle - low), (high - hz) / (high - middle))
    bank = np.maximum(0, slopes) * 2 / (high - low)  # (M, K)
    bins, k = np.nonzero(bank)
    starts = np.searchsorted(bins, np.arange(n_mels + 1))
    weights = bank[bins, k]
    k = np.where(np.isin(k % 25, COLUMNS), k, 400 - k)
    rows = k % 16 * 13 + [COLUMNS.index(d) for d in k % 25]
    return starts.astype(np.int32), rows.astype(np.int32), weights


def log_mel(audio, n_mels):
    clips = np.ascontiguousarray(np.atleast_2d(audio)[:, :480_000])  # (B, L)
    out = np.empty((len(clips), n_mels, 3000), np.float32)  # (B, M, F)

    def compute(clip, to):
        LIBRARY.log_mel(clip, len(clip), PLACES, WINDOW, ANGLES, n_mels, *filters(n_mels), to)

    n_threads = min(len(clips), THREADS)
    if n_threads == 1:
        list(map(compute, clips, out))
    else:
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(compute, clips, out))
    return out.reshape(*audio.shape[:-1], n_mels, 3000)
