"""The front end on a few frames, to rank thousands of conventions by how near they come.

Two mistakes at once make ten thousand pairs. On some twenty frames all of them take a second or
two, because pairs that agree up to a stage share it. The nearest are then tried on more frames, and
only the nearest of those on all.

    # B batch, if there is one  K frequencies  M mel bins  n chosen frames
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from melfront import variants
from melfront.conventions import HOP_LENGTH, Convention

from ..noise import Array, rms
from ..pipeline import Pipeline

ORDER = ["frames", "power", "mel", "log", "clamped", "features"]  # the stages that are computed
SERVES = ORDER[1:]  # and that it can be asked about
MEAN = 0.01  # that normalised features may have: in bfloat16 a value is off by up to 0.4 %
FEW = 3  # frames that a port without centring, or with a hop more, has too few or too many
# Where chunks of likely lengths meet, if they are 100 ms, 0.5 s, 1 s, 2 s, 5 s or 10 s long.
MEETINGS = (9, 10, 49, 50, 99, 100, 199, 200, 499, 500, 999, 1000)


class FewFrames:
    """The candidate's values of one stage on the chosen frames, and every convention's.

    The frames are the edges, the clips' ends, the loudest ones - so that the maximum is among
    them - some of the rest, and, unless `few`, where chunks meet.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        stage: str,
        values: Array,
        few: bool = False,
        which: Array | None = None,
        weights: Array | None = None,
    ) -> None:
        """which: the numbers of the frames that the values are of; by default all. weights: of each
        bin's errors."""
        self.pipeline, self.asked, self.values = pipeline, stage, values
        self.axis = -2 if stage == "power" else -1
        given = values.shape[self.axis] if values.ndim >= 2 else 0
        self.n_frames = pipeline.length // HOP_LENGTH
        if which is None and not self.n_frames <= given <= self.n_frames + FEW:
            self.n_frames = max(given, 1)
        self.which = which
        self.weights: Array | float = 1.0 if weights is None else weights
        self.ends = np.array([len(clip) // HOP_LENGTH for clip in pipeline.clips.arrays])
        # The loudest frames of the truth, and those of the candidate, which the convention that it
        # was made with has too.
        every = [pipeline.front_end_truth["log"].max(axis=-2)]  # (F,) or (B, F)
        if values.ndim == every[0].ndim + 1:
            every.append(values.max(axis=-1 if stage == "power" else -2))
        chosen = [*range(3), self.n_frames - 1]
        chosen += [frame for end in self.ends for frame in range(end - 2, end + 3)]
        chosen += range(0, self.n_frames, max(1, self.n_frames // (4 if few else 32)))
        chosen += [] if few else MEETINGS
        if which is not None:
            every = every[:1]  # the candidate's frames have other numbers
            chosen += which[:: max(1, len(which) // (4 if few else 32))].tolist()
        for loudness in every:
            chosen += np.argsort(loudness)[..., -(2 if few else 8) :].flatten().tolist()
        self.frames = np.unique(np.clip(chosen, 0, self.n_frames - 1))
        # The frames that the candidate has, as it counts them and among those chosen.
        mine: Array = self.frames
        self.among: Array = np.arange(len(self.frames))
        if which is not None:
            _, mine, self.among = np.intersect1d(which, self.frames, return_indices=True)
        self.chosen = values.take(mine, axis=self.axis) if given else values
        self.done: dict[tuple[object, ...], Array] = {}

    def stage(self, name: str, c: Convention) -> Array:
        """A stage of the chosen frames under a convention."""
        # Conventions that agree as far as a stage share it.
        key = (name, *c.upto(name))
        if key not in self.done:
            self.done[key] = self.compute(name, c)
        return self.done[key]

    def compute(self, name: str, c: Convention) -> Array:
        if name == "frames":
            clips = self.pipeline.clips
            total = variants.total_length(clips, self.pipeline.length, c)
            # A frame too many comes last: it may hold the maximum.
            count = self.computed(c, c.drop in (None, "last_after_max"))
            index = np.minimum([*self.frames, *range(self.n_frames, count)], count - 1)
            each = [
                framed(self.conditioned(i, c), total, index, c) for i in range(len(clips.arrays))
            ]
            return np.stack(each) if clips.batched else each[0]
        x = self.stage(ORDER[ORDER.index(name) - 1], c)
        if name == "power":
            return variants.power(variants.spectrum(variants.windowed(x, c), c), c)  # (B, n, K)
        if name == "mel":
            return variants.mel(x, c, self.pipeline.n_mels)  # (B, M, n)
        if name == "log":
            return variants.log(x, c)
        if name == "clamped":
            return variants.clamp_below(x, self.maximum(x, c), c)[..., : len(self.frames)]
        return self.features(x, c)

    def conditioned(self, number: int, c: Convention) -> Array:
        key = (number, c.read, c.skip, c.gain, c.preemphasis, c.padded_preemphasis, c.normalize)
        if key not in self.done:
            self.done[key] = variants.condition(self.pipeline.clips.arrays[number], c)
        return self.done[key]

    def maximum(self, log: Array, c: Convention) -> Any:
        """What the clamp hangs from, from the logarithm on the chosen frames."""
        n_frames = self.n_frames + log.shape[-1] - len(self.frames)
        frames = [*self.frames, *range(self.n_frames, n_frames)]
        counts = variants.counted(self.pipeline.clips, n_frames, c)
        if c.fixed_max is not None or not (c.max_chunk or c.max_running):
            return variants.maximum(log, c, counts if counts is True else counts[..., frames])
        # It needs all frames: take the truth's, louder by as much as the loudest is.
        truth = self.pipeline.front_end_truth["log"]
        if c.upto("log") != self.pipeline.convention.upto("log"):
            truth = truth + (log.max() - truth.max())
        every = np.pad(truth, [(0, 0)] * (truth.ndim - 1) + [(0, FEW)], mode="edge")
        loudest = variants.maximum(every, c)
        return loudest[..., np.minimum(frames, loudest.shape[-1] - 1)]

    def features(self, clamped: Array, c: Convention) -> Array:
        by_frame = c.output_mean in (None, "frame")  # the others look at all frames
        x = variants.scale(clamped, c if by_frame else replace(c, output_mean=None))
        if c.fill is not None:
            x = np.where(self.before_tail(c), x, c.fill)
        if c.unwritten:
            x = np.where(self.frames >= self.count(c) - c.unwritten, 0.0, x)
        return x

    def before_tail(self, c: Convention) -> Any:
        """Which of the chosen frames are not filled: (n,), or (B, 1, n) of a batch."""
        if c.own_length:
            return self.frames < self.computed(c)
        before = self.frames < self.ends[:, None, None]  # (B, 1, n)
        return before if self.pipeline.clips.batched else before[0, 0]

    def computed(self, c: Convention, keeps: bool | None = None) -> int:
        """How many frames this convention computes."""
        keeps = c.drop is None if keeps is None else keeps
        total = variants.total_length(self.pipeline.clips, self.pipeline.length, c)
        total += 2 * (c.n_fft // 2) if c.pad_twice else 0
        if c.chunk:
            chunks, rest = divmod(total, c.chunk * c.hop_length)
            return chunks * (c.chunk + keeps) + (rest // c.hop_length + keeps if rest else 0)
        return total // c.hop_length + keeps

    def count(self, c: Convention) -> int:
        """How many frames this convention has at the stage in question."""
        if c.fill is not None and self.asked == "features":
            return self.pipeline.length // c.hop_length
        late = self.asked in ("clamped", "features")
        return self.computed(c, c.drop is None or (c.drop == "last_after_max" and not late))

    def distance_to(self, c: Convention) -> float:
        """rms distance of the candidate from this convention on the chosen frames."""
        if self.values.ndim < 2 or not self.has_as_many(c):
            return float("inf")
        chosen = self.chosen
        variant = self.stage(self.asked, c).take(self.among, axis=self.axis)
        if chosen.shape != variant.shape:
            return float("inf")
        if self.asked == "features" and c.output_mean not in (None, "frame"):
            # They are normalised over all frames, and only a few are here: normalise both again,
            # over these few.
            if not self.normalised(c):
                return float("inf")
            own = slice(None)
            if c.fill is not None and not self.pipeline.clips.batched:
                own = self.before_tail(c)[self.among]
            chosen, variant = (standard(x[..., own], c.output_mean) for x in (chosen, variant))
        distance = rms((chosen - variant) * self.weights)
        return distance if np.isfinite(distance) else float("inf")

    def has_as_many(self, c: Convention) -> bool:
        """Has the candidate this convention's frames, or the first of them?"""
        given, count = self.values.shape[self.axis], self.count(c)
        if self.which is not None:
            return given == len(self.which)
        return given == count or (c.pad_twice and given == self.pipeline.length // c.hop_length)

    def normalised(self, c: Convention) -> bool:
        """Is the candidate's mean, or for "range" its least value, 0?"""
        if c.output_mean == "range":
            return bool(abs(self.values.min()) <= MEAN)
        axes = (-2, -1) if c.output_mean == "item" else -1
        return bool(np.abs(self.values.mean(axis=axes, dtype=np.float64)).max() <= MEAN)

    def least(self, c: Convention, distance: float) -> float:
        """rms distance that is left in all frames at the least, given that in the chosen ones.

        0 for a convention that looks at all frames: its effect on the chosen ones is not known.
        """
        if c.max_scope == "bin" or c.max_chunk or c.max_running or c.output_mean:
            return 0.0
        share = len(self.among) / (self.n_frames if self.which is None else len(self.which))
        return distance * float(np.sqrt(share))


def framed(clip: Array, total: int, index: Array, c: Convention) -> Array:
    """These frames of a clip padded to `total` samples: (n,) -> (n, N), no other being computed."""
    clip, left, n_fft = clip[:total], -c.start, c.n_fft
    first = total - len(clip) if c.pad_side == "left" else 0  # the clip's first sample
    keeps = c.drop in (None, "last_after_max")
    step = c.chunk * c.hop_length if c.chunk else total
    number, frame = np.divmod(index, c.chunk + keeps) if c.chunk else (0 * index, index)
    low = (number * step)[:, None]  # of the frame's own chunk, or of the whole
    high = np.minimum(low + step, total)
    if c.pad_twice or c.edges_first or (high - low).min() <= n_fft or not len(clip):
        return np.array(variants.frames(variants.pad(clip, total, c), c)[index])
    at = low + ((frame + (c.drop == "first")) * c.hop_length - left)[:, None] + np.arange(n_fft)
    before, after = at < low, at >= high
    mirror = c.pad_mode == "reflect"  # around the edge sample, not beside it
    at = np.where(before, 2 * low - at - (not mirror), at)
    at = np.where(after, 2 * high - at - 1 - mirror, at)
    if c.pad_mode == "edge":
        at = np.where(before, low, np.where(after, high - 1, at))
    at = at - first
    inside = (at >= 0) & (at < len(clip))
    values = np.where(inside, clip[np.clip(at, 0, len(clip) - 1)], 0.0)
    return np.where(before | after, 0.0, values) if c.pad_mode == "constant" else values


def standard(x: Array, how: str | None) -> Array:
    """x less its mean, over its standard deviation."""
    axes = -1 if how in ("bin", "bin_unbiased", "bin_mean") else (-2, -1)
    centred = x - x.mean(axis=axes, keepdims=True)
    if how == "bin_mean":
        return np.asarray(centred)
    return np.asarray(centred / (centred.std(axis=axes, keepdims=True) + 1e-5))
