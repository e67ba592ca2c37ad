"""The whole front end in two Triton kernels: a real FFT in registers, and the clamp.

With n = 16 a + b and k = c + 25 d, the 400 samples of a frame become 201 frequencies by

    X[k] = sum_b W16^(b d) W400^(b c) sum_a W25^(a c) x[16 a + b]

A thread holds one b of one frame and computes the inner sums: a real DFT of 25 samples, as 5 x 5,
of which c = 0 to 12 are enough. The threads then exchange, so that each holds one c of one frame
and computes the outer sums: a complex DFT of 16, as 4 x 4. Triton cannot address shared memory, so
`exchange` joins the results into one tensor, permutes it and splits it along b: one pass through
shared memory.

Power goes to a buffer that a program uses for all its tiles, so that it stays in the cache, because
a mel filter needs up to 14 frequencies that other threads hold. All sums are in float32, and none
takes a tensor core. The second kernel clamps at the clip's maximum - 8.

    melfront benchmarks kernel log_mel benchmarks/examples/gpu/log_mel_triton.py --device cuda
"""
# mypy: ignore-errors

import math
from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl


def filters(n_mels):
    """Triangles on Slaney's mel scale, each of area 1: (201, n_mels)."""
    top = 15 + 27 * np.log(8) / np.log(6.4)  # 8000 Hz
    mels = np.linspace(0, top, n_mels + 2)
    edges = np.where(mels < 15, 200 / 3 * mels, 1000 * 6.4 ** ((mels - 15) / 27))
    hz = np.arange(201)[:, None] * 40.0
    rising = (hz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hz) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])


@lru_cache(maxsize=4)
def tables(n_mels, device):
    """The window (400,), W400^(b c) as (c, cos | sin, b), a filter's weights (n, n_mels) from its
    first frequency (n_mels,) on; on the host, how many weights each 16 filters have at most."""
    window = np.sin(np.pi / 400 * np.arange(400)) ** 2
    angle = 2 * np.pi / 400 * np.arange(13)[:, None] * np.arange(16)
    turn = np.stack([np.cos(angle), np.sin(angle)], 1)
    bank = filters(n_mels)
    n = (bank > 0).sum(0).max()
    first = np.minimum((bank > 0).argmax(0), 201 - n)
    weights = bank[first + np.arange(n)[:, None], np.arange(n_mels)]
    count = ((weights > 0) * np.arange(1, n + 1)[:, None]).max(0).reshape(-1, 16).max(1)
    arrays = [x.astype(np.float32) for x in (window, turn, weights)] + [first.astype(np.int32)]
    return [torch.from_numpy(x).to(device) for x in arrays], tuple(count.tolist())


C1, S1 = tl.constexpr(math.cos(0.4 * math.pi)), tl.constexpr(math.sin(0.4 * math.pi))
C2, S2 = tl.constexpr(math.cos(0.8 * math.pi)), tl.constexpr(math.sin(0.8 * math.pi))
COS25 = tl.constexpr(tuple(math.cos(2 * math.pi / 25 * i) for i in range(9)))
SIN25 = tl.constexpr(tuple(math.sin(2 * math.pi / 25 * i) for i in range(9)))
COS16 = tl.constexpr(tuple(math.cos(2 * math.pi / 16 * i) for i in range(10)))
SIN16 = tl.constexpr(tuple(math.sin(2 * math.pi / 16 * i) for i in range(10)))
PLACE = tl.constexpr((0, 3, 8, 12, 7, 1, 4, 9, 11, 6, 2, 5, 10))  # of each c in what dft25 finds


@triton.jit
def five(x0, x1, x2, x3, x4):
    """A real DFT: X[0], the real parts of X[1] and X[2], their imaginary parts negated."""
    a, b, c, d = x1 + x4, x2 + x3, x1 - x4, x2 - x3
    return x0 + a + b, x0 + a * C1 + b * C2, x0 + a * C2 + b * C1, c * S1 + d * S2, c * S2 - d * S1


@triton.jit
def four(r0, r1, r2, r3, i0, i1, i2, i3):
    """A complex DFT: the real parts, then the imaginary ones."""
    a, b, c, d = r0 + r2, r1 + r3, r0 - r2, r1 - r3
    e, f, g, h = i0 + i2, i1 + i3, i0 - i2, i1 - i3
    return a + b, c + h, a - b, c - h, e + f, g - d, e - f, g + d


@triton.jit
def turned(r, i, cos, sin):
    """r + i j, turned back by the angle."""
    return r * cos + i * sin, i * cos - r * sin


@triton.jit
def read(clip, at, n_samples, EDGE: tl.constexpr):
    """x[16 a + b] for each a."""
    x = ()
    for a in tl.static_range(25):
        if EDGE:  # reflected about both ends of the 30 s, silence after the clip
            n = tl.abs(at + 16 * a)
            n = tl.minimum(n, 959_998 - n)
            x += (tl.load(clip + n, mask=n < n_samples, other=0.0),)
        else:
            x += (tl.load(clip + at + 16 * a),)
    return x


@triton.jit
def dft25(x, window, turn):
    """The inner sums for c < 13, times W400^(b c): 13 pairs of real and imaginary parts."""
    y = ()
    for q in tl.static_range(5):
        z = ()
        for p in tl.static_range(q, 25, 5):
            z += (x[p] * tl.load(window + p * 16),)
        y += (five(z[0], z[1], z[2], z[3], z[4]),)
    x0, r1, r2, i1, i2 = five(y[0][0], y[1][0], y[2][0], y[3][0], y[4][0])
    z = ((x0, x0 * 0.0), (r1, -i1), (r2, -i2))  # c = 0, 5, 10
    for u in tl.static_range(1, 3):
        r, i = (y[0][u],), (-y[0][u + 2],)
        for q in tl.static_range(1, 5):
            a, b = turned(y[q][u], -y[q][u + 2], COS25[q * u], SIN25[q * u])
            r += (a,)
            i += (b,)
        r0, r1, r2, s1, s2 = five(r[0], r[1], r[2], r[3], r[4])
        i0, i1, i2, t1, t2 = five(i[0], i[1], i[2], i[3], i[4])
        z += ((r0, i0), (r1 + t1, i1 - s1), (r2 + t2, i2 - s2))  # c = u, 5 + u, 10 + u
        z += ((r2 - t2, -i2 - s2), (r1 - t1, -i1 - s1))  # 10 - u, 5 - u: of 25 - c, conjugate
    y = ()
    for c in tl.static_range(13):
        r, i = z[PLACE[c]]
        y += (turned(r, i, tl.load(turn + c * 32), tl.load(turn + c * 32 + 16)),)
    return y


@triton.jit
def exchange(y, FRAMES: tl.constexpr):
    """For each of 13 c a pair of (b, t) -> for each of 16 b a real and an imaginary (c, t)."""
    x = ()
    for c in tl.static_range(16):
        x += (tl.join(y[c % 13][0], y[c % 13][1]),)  # the last 3 are not used
    for n in tl.static_range(4):
        pairs = ()
        for c in tl.static_range(8 >> n):
            pairs += (tl.join(x[c], x[c + (8 >> n)]),)
        x = pairs
    every = tl.reshape(x[0], (2, 2, 2, 2, FRAMES, 2, 16))  # b in bits, t, part, c
    x = (tl.permute(every, (6, 4, 3, 2, 1, 0, 5)),)
    for n in tl.static_range(5):
        halves = ()
        for i in tl.static_range(1 << n):
            a, b = tl.split(x[i])
            halves += (a, b)
        x = halves
    return x[:16], x[16:]


@triton.jit
def dft16(r, i, c, to, FRAMES: tl.constexpr):
    """The outer sums: |X[k]|^2 to (k, t). Past the middle it is that of 400 - k."""
    y = ()
    for q in tl.static_range(4):
        y += (four(r[q], r[q + 4], r[q + 8], r[q + 12], i[q], i[q + 4], i[q + 8], i[q + 12]),)
    for u in tl.static_range(4):
        r, i = (y[0][u],), (y[0][u + 4],)
        for q in tl.static_range(1, 4):
            a, b = turned(y[q][u], y[q][u + 4], COS16[q * u], SIN16[q * u])
            r += (a,)
            i += (b,)
        z = four(r[0], r[1], r[2], r[3], i[0], i[1], i[2], i[3])
        for v in tl.static_range(4):  # d = u + 4 v
            k = c + (u + 4 * v) * 25 if v < 2 else 400 - (u + 4 * v) * 25 - c
            tl.store(to + k * FRAMES, z[v] * z[v] + z[v + 4] * z[v + 4], mask=c < 13)


@triton.jit
def dot(x, y, X_STEP: tl.constexpr, Y_STEP: tl.constexpr, COUNT: tl.constexpr):
    total = tl.load(x) * tl.load(y)
    for n in tl.static_range(1, COUNT):
        total += tl.load(x + n * X_STEP) * tl.load(y + n * Y_STEP)
    return total


@triton.jit
def features(
    audio, window, turn, weights, lowest, power, out, loudest, least,
    n_samples, stride, n_tiles, n_all,
    N_MELS: tl.constexpr, COUNT: tl.constexpr, FRAMES: tl.constexpr,
):  # fmt: skip
    i, t = tl.arange(0, 16)[:, None], tl.arange(0, FRAMES)[None, :]
    power += tl.program_id(0) * 201 * FRAMES + t
    for each in range(tl.program_id(0), n_all, tl.num_programs(0)):
        tile, item = each % n_tiles, (each // n_tiles).to(tl.int64)
        clip, frame = audio + item * stride, tile * FRAMES + t
        at = frame * 160 - 200 + i
        if (tile == 0) | ((tile + 1) * FRAMES * 160 + 200 > n_samples):
            x = read(clip, at, n_samples, True)
        else:
            x = read(clip, at, n_samples, False)
        real, imag = exchange(dft25(x, window + i, turn + i), FRAMES)
        dft16(real, imag, i, power, FRAMES)
        tl.debug_barrier()
        high = tl.full((16, FRAMES), -10.0, tl.float32)
        low = tl.full((16, FRAMES), 100.0, tl.float32)
        to = out + item * (N_MELS * 3000) + frame
        for g in tl.static_range(N_MELS // 16):
            m = g * 16 + i
            first = power + tl.load(lowest + m) * FRAMES
            mel = dot(weights + m, first, N_MELS, FRAMES, COUNT[g])
            log = tl.log(tl.maximum(mel, 1e-10)) * 0.4342944819032518  # 1 / ln 10
            high = tl.where(frame < 3000, tl.maximum(high, log), high)
            low = tl.where(frame < 3000, tl.minimum(low, log), low)
            tl.store(to + m * 3000, (log + 4) / 4, mask=frame < 3000)
        tl.store(loudest + each, tl.max(high))
        tl.store(least + each, tl.min(low))
        tl.debug_barrier()


@triton.jit
def clamp(
    out, loudest, least, n_mels, n_tiles,
    FRAMES: tl.constexpr, TILES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    item = tl.num_programs(1) - 1 - tl.program_id(1).to(tl.int64)
    t = tl.arange(0, TILES)  # the clips written last are read first, while the cache has them
    floor = tl.max(tl.load(loudest + item * n_tiles + t, mask=t < n_tiles, other=-10.0)) - 8
    t = tl.program_id(0) * (WIDTH // FRAMES) + tl.arange(0, WIDTH // FRAMES)
    lowest = tl.min(tl.load(least + item * n_tiles + t, mask=t < n_tiles, other=-100.0))
    if lowest < floor:
        frame = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)[None, :]
        m = tl.arange(0, 128)[:, None]
        here = (frame < 3000) & (m < n_mels)
        at = out + (item * n_mels + m) * 3000 + frame
        sound = frame < n_tiles * FRAMES  # silence after it
        x = tl.load(at, mask=here & sound, other=-1.5)
        tl.store(at, tl.maximum(x, (floor + 4) / 4), mask=here)


FRAMES = 16  # of a tile


def log_mel(audio, n_mels):
    clips = torch.atleast_2d(audio).contiguous()
    b, n_samples = len(clips), min(clips.shape[1], 480_000)
    n_tiles = triton.cdiv(min(3000, triton.cdiv(n_samples + 200, 160)), FRAMES)  # with sound
    programs = b * n_tiles
    if audio.is_cuda:  # three fit a processor, if each thread takes 80 registers
        gpu = torch.cuda.get_device_properties(audio.device)
        programs = min(programs, 3 * gpu.multi_processor_count)
    power = torch.empty(programs, 201, FRAMES, device=audio.device)
    out = torch.empty(b, n_mels, 3000, device=audio.device)
    loudest, least = torch.empty(2, b, n_tiles, device=audio.device)
    arrays, count = tables(n_mels, audio.device)
    features[(programs,)](
        clips, *arrays, power, out, loudest, least, n_samples, clips.shape[1], n_tiles, b * n_tiles,
        N_MELS=n_mels, COUNT=count, FRAMES=FRAMES, num_warps=8, maxnreg=80,
    )  # fmt: skip
    clamp[47, b](
        out, loudest, least, n_mels, n_tiles,
        FRAMES=FRAMES, TILES=triton.next_power_of_2(n_tiles), WIDTH=64,
    )  # fmt: skip
    return out if audio.ndim == 2 else out[0]
