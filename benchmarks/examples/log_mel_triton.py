"""The whole front end in two Triton kernels: from samples to log-mel, and the clamp.

A tile of frames is windowed and folded, and its DFT is a product: cosines see a frame's even part
about sample 200, sines its odd part, and a further fold about sample 100 sets even frequencies k
apart from odd ones. Products over even samples n and over odd ones then add up to frequency k, and
subtract to 200 - k: eight products of 51 x 51 instead of two of 400 x 201, an eighth of the work.
Power, mel, logarithm and the tile's loudest value follow in registers. The second kernel clamps at
the clip's maximum - 8, and reads again only the tiles with something to clamp.

Each product is tf32x3, three products of 11-bit halves: float32's precision. Plain TF32 is 2000
times too rough.

    python -m benchmarks kernel log_mel benchmarks/examples/log_mel_triton.py --device cuda
"""
# mypy: allow-untyped-defs

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
    """Half the window (201,), the DFT (odd k, odd n, cos | sin, k, n), the filters (odd k, m, k) of
    frequencies k and (odd k, m, k) of 200 - k. The latter reach the last 32 filters only."""
    window = np.sin(np.pi / 400 * np.arange(201)) ** 2
    n = k = 2 * np.arange(64) + np.arange(2)[:, None]  # even ones, odd ones
    angle = 2 * np.pi / 400 * n[None, :, :, None] * k[:, None, None, :]
    dft = np.stack([np.cos(angle), np.sin(angle)], 2)
    share = np.select([n > 100, n % 100 == 0], [0, 0.5], 1)  # samples 0 and 100 meet themselves
    dft *= share[:, None, :, None]
    bank = filters(n_mels)
    wide = np.zeros((201, 128))
    wide[:, : n_mels - 32], wide[:, 96:] = bank[:, :-32], bank[:, -32:]
    low = wide[np.minimum(k, 200)] * (k <= 100)[..., None]
    high = wide[200 - np.minimum(k, 200), 96:] * (k < 100)[..., None]
    matrices = [
        np.ascontiguousarray(x.swapaxes(-1, -2), dtype=np.float32) for x in (dft, low, high)
    ]
    return [torch.from_numpy(x).to(device) for x in (window.astype(np.float32), *matrices)]


@triton.jit
def read(clip, at, n_samples, EDGE: tl.constexpr):
    if EDGE:  # reflected about both ends of the 30 s, silence after the clip
        at = tl.abs(at)
        at = tl.minimum(at, 959_998 - at)
        x = tl.load(clip + at, mask=at < n_samples, other=0.0)
    else:
        x = tl.load(clip + at)
    return x


@triton.jit
def product(x, table, total, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    at = tl.arange(0, ROWS)[:, None] + tl.arange(0, COLUMNS)[None, :] * 64  # as tensor cores read
    return tl.dot(x, tl.load(table + at), total, input_precision="tf32x3")


@triton.jit
def half_spectrum(
    clip, first, odd_k, odd_n, window, dft, n_samples, FRAMES: tl.constexpr, EDGE: tl.constexpr
):  # fmt: skip
    """Sums over the even or the odd samples n, for the even or the odd frequencies k."""
    STEP: tl.constexpr = 32
    start = first + tl.arange(0, FRAMES)[:, None] * 160
    sign = 1.0 - 2.0 * odd_k
    real = tl.zeros((FRAMES, 64), tl.float32)
    imag = tl.zeros((FRAMES, 64), tl.float32)
    for step in range(64 // STEP):
        n = 2 * (step * STEP + tl.arange(0, STEP)) + odd_n
        up, down = start + n[None, :], start + 400 - n[None, :]
        a, b = read(clip, up, n_samples, EDGE), read(clip, down, n_samples, EDGE)
        w = tl.load(window + n)[None, :]
        even, odd = (a + b) * w, (a - b) * w
        a, b = read(clip, down - 200, n_samples, EDGE), read(clip, up + 200, n_samples, EDGE)
        w = tl.load(window + 200 - n)[None, :] * sign
        even, odd = even + (a + b) * w, odd - (a - b) * w
        table = dft + (odd_k * 2 + odd_n) * 8192 + step * STEP
        real = product(even, table, real, STEP, 64)
        imag = product(odd, table + 4096, imag, STEP, 64)
    return real, imag


@triton.jit
def mel_of_tile(
    clip, first, window, dft, low, high, n_samples, FRAMES: tl.constexpr, EDGE: tl.constexpr
):  # fmt: skip
    mel = tl.zeros((FRAMES, 128), tl.float32)
    top = tl.zeros((FRAMES, 32), tl.float32)
    for odd_k in range(2):
        r, i = half_spectrum(clip, first, odd_k, 0, window, dft, n_samples, FRAMES, EDGE)
        s, j = half_spectrum(clip, first, odd_k, 1, window, dft, n_samples, FRAMES, EDGE)
        power = (r + s) * (r + s) + (i + j) * (i + j)
        mel = product(power, low + odd_k * 64 * 128, mel, 64, 128)
        power = (r - s) * (r - s) + (i - j) * (i - j)
        top = product(power, high + odd_k * 64 * 32, top, 64, 32)
    last = (tl.arange(0, 4) == 3)[None, :, None]
    mel = tl.reshape(mel, (FRAMES, 4, 32))
    return tl.reshape(tl.where(last, mel + top[:, None, :], mel), (FRAMES, 128))


@triton.jit
def features(
    audio, window, dft, low, high, out, loudest, least, n_samples, stride, n_mels,
    FRAMES: tl.constexpr,
):  # fmt: skip
    tile, item = tl.program_id(0), tl.program_id(1).to(tl.int64)
    clip, first = audio + item * stride, tile * FRAMES * 160 - 200
    if (first < 0) | (first + FRAMES * 160 + 240 >= n_samples):
        mel = mel_of_tile(clip, first, window, dft, low, high, n_samples, FRAMES, True)
    else:
        mel = mel_of_tile(clip, first, window, dft, low, high, n_samples, FRAMES, False)
    log = tl.log(tl.maximum(mel, 1e-10)) * 0.4342944819032518  # 1 / ln 10
    frame, m = tile * FRAMES + tl.arange(0, FRAMES), tl.arange(0, 128)
    here = (frame < 3000)[:, None] & ((m < n_mels - 32) | (m >= 96))[None, :]
    at = item * tl.num_programs(0) + tile
    tl.store(loudest + at, tl.max(tl.where(here, log, -10.0)))
    tl.store(least + at, tl.min(tl.where(here, log, 100.0)))
    m = tl.where(m < 96, m, m - 128 + n_mels)
    tl.store(out + (item * n_mels + m[None, :]) * 3000 + frame[:, None], (log + 4) / 4, mask=here)


@triton.jit
def clamp(out, loudest, least, n_mels, n_tiles, FRAMES: tl.constexpr, TILES: tl.constexpr):
    tile, item = tl.program_id(0), tl.num_programs(1) - 1 - tl.program_id(1).to(tl.int64)
    t = tl.arange(0, TILES)  # the clips written last are read first, while the cache has them
    top = tl.load(loudest + item * n_tiles + t, mask=t < n_tiles, other=-10.0)
    floor = tl.max(top, 0) - 8
    frame, m = tile * FRAMES + tl.arange(0, FRAMES), tl.arange(0, 128)
    here = (frame < 3000)[None, :] & (m < n_mels)[:, None]
    at = out + (item * n_mels + m[:, None]) * 3000 + frame[None, :]
    if tile >= n_tiles:  # after the clip
        silence = tl.zeros((128, FRAMES), tl.float32) + tl.maximum(floor, -10.0)
        tl.store(at, (silence + 4) / 4, mask=here)
    elif tl.load(least + item * n_tiles + tile) < floor:
        tl.store(at, tl.maximum(tl.load(at, mask=here), (floor + 4) / 4), mask=here)


def log_mel(audio, n_mels):
    clips = torch.atleast_2d(audio).contiguous()
    b, n_samples = len(clips), min(clips.shape[1], 480_000)
    frames, warps = (64, 4) if b < 4 else (128, 8)  # a few clips: more tiles, for more processors
    n_tiles = triton.cdiv(min(3000, triton.cdiv(n_samples + 200, 160)), frames)  # with sound
    out = torch.empty(b, n_mels, 3000, device=audio.device)
    loudest, least = torch.empty(2, b, n_tiles, device=audio.device)
    window, dft, low, high = tables(n_mels, audio.device)
    features[n_tiles, b](
        clips, window, dft, low, high, out, loudest, least, n_samples, clips.shape[1], n_mels,
        FRAMES=frames, num_warps=warps, num_stages=1,
    )  # fmt: skip
    clamp[triton.cdiv(3000, frames), b](
        out, loudest, least, n_mels, n_tiles, FRAMES=frames, TILES=triton.next_power_of_2(n_tiles)
    )
    return out if audio.ndim == 2 else out[0]
