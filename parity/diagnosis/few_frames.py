"""The front end on a few frames, to rank thousands of conventions by how near they come.

Two mistakes at once make two thousand pairs. On some fifty frames all of them take a second,
because pairs that agree up to a stage share it. Only the nearest are then computed on all frames.

    # B batch, if there is one  K frequencies  M mel bins  n chosen frames
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from melfront import variants
from melfront.conventions import HOP_LENGTH, Convention

from ..noise import Array, rms
from ..pipeline import Pipeline

ORDER = ["frames", "power", "mel", "log", "clamped", "features"]  # the stages that are computed
SERVES = ORDER[1:]  # and that it can be asked about
LOUDEST = 8  # frames
MEAN = 0.01  # that normalised features may have: in bfloat16 a value is off by up to 0.4 %


class FewFrames:
    """The candidate's values of one stage on the chosen frames, and every convention's.

    The frames are the edges, the clips' ends, the loudest ones - so that the maximum is among
    them - and some of the rest.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        stage: str,
        values: Array,
        given: Array | None = None,
        weights: Array | None = None,
    ) -> None:
        """given: which frames the values are of; by default all. weights: of each bin's errors."""
        self.pipeline, self.asked, self.values = pipeline, stage, values
        self.n_frames = pipeline.length // HOP_LENGTH
        self.given = given
        self.weights: Array | float = 1.0 if weights is None else weights
        self.ends = np.array([len(clip) // HOP_LENGTH for clip in pipeline.clips.arrays])
        # The loudest frames of the truth, and those of the candidate, which the convention that it
        # was made with has too.
        every = [pipeline.front_end_truth["log"].max(axis=-2)]  # (F,) or (B, F)
        if values.ndim == every[0].ndim + 1:
            every.append(values.max(axis=-1 if stage == "power" else -2))
        chosen = [*range(3), self.n_frames - 1]
        chosen += [frame for end in self.ends for frame in range(end - 2, end + 3)]
        chosen += range(0, self.n_frames, max(1, self.n_frames // 32))
        if given is not None:
            every = every[:1]  # the candidate's frames have other numbers
            chosen += given[:: max(1, len(given) // 32)].tolist()
        for loudness in every:
            chosen += np.argsort(loudness)[..., -LOUDEST:].flatten().tolist()
        self.frames = np.unique(np.clip(chosen, 0, self.n_frames - 1))
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
            clips, total = self.pipeline.clips, self.pipeline.length + c.extra_padding
            padded = [variants.pad(variants.condition(clip, c), total, c) for clip in clips.arrays]
            every = variants.frames(np.stack(padded) if clips.batched else padded[0], c)
            # A frame too many comes last: it may hold the maximum.
            return every[..., [*self.frames, *range(self.n_frames, every.shape[-2])], :]
        x = self.stage(ORDER[ORDER.index(name) - 1], c)
        if name == "power":
            return variants.power(variants.spectrum(x * variants.window(c), c), c)  # (B, n, K)
        if name == "mel":
            return variants.mel(x, c, self.pipeline.n_mels)  # (B, M, n)
        if name == "log":
            return variants.log(x, c)
        if name == "clamped":
            n_frames = self.n_frames + x.shape[-1] - len(self.frames)
            counts = variants.counted(self.pipeline.clips, n_frames, c)
            if counts is not True:
                counts = counts[..., [*self.frames, *range(self.n_frames, n_frames)]]
            return variants.clamp(x, c, counts)[..., : len(self.frames)]
        x = variants.scale(x, replace(c, output_mean=None) if c.output_mean else c)
        if c.fill is None:
            return x
        after = self.frames >= self.ends[:, None, None]  # (B, 1, n)
        return np.where(after if self.pipeline.clips.batched else after[0], c.fill, x)

    def count(self, c: Convention) -> int:
        """How many frames this convention has at the stage in question."""
        late = self.asked in ("clamped", "features")
        keeps = c.drop is None or (c.drop == "last_after_max" and not late)
        if c.fill is not None and self.asked == "features":
            return self.n_frames
        return (self.pipeline.length + c.extra_padding) // c.hop_length + keeps

    def distance_to(self, c: Convention) -> float:
        """rms distance of the candidate from this convention on the chosen frames."""
        axis = -2 if self.asked == "power" else -1
        count = self.count(c) if self.given is None else len(self.given)
        if self.values.ndim < 2 or self.values.shape[axis] != count:
            return float("inf")
        variant = self.stage(self.asked, c)
        if self.given is None:
            chosen = self.values.take(self.frames, axis=axis)
            variant = variant.take(range(len(self.frames)), axis=axis)
        else:
            _, mine, theirs = np.intersect1d(self.given, self.frames, return_indices=True)
            chosen = self.values.take(mine, axis=axis)
            variant = variant.take(theirs, axis=axis)
        if chosen.shape != variant.shape:
            return float("inf")
        if c.output_mean and self.asked == "features":
            # They are normalised over all frames, and only a few are here: normalise both again,
            # over these few.
            axes = -1 if c.output_mean == "bin" else (-2, -1)
            if np.abs(self.values.mean(axis=axes, dtype=np.float64)).max() > MEAN:
                return float("inf")
            chosen, variant = standard(chosen, axes), standard(variant, axes)
        distance = rms((chosen - variant) * self.weights)
        return distance if np.isfinite(distance) else float("inf")

    def least(self, c: Convention, distance: float) -> float:
        """rms distance that is left in all frames at the least, given that in the chosen ones.

        0 for a convention that looks at all frames: its effect on the chosen ones is not known.
        """
        if c.max_scope == "bin" or c.output_mean:
            return 0.0
        given = np.arange(self.n_frames) if self.given is None else self.given
        share = np.isin(given, self.frames).mean()
        return distance * float(np.sqrt(share))


def standard(x: Array, axes: int | tuple[int, ...]) -> Array:
    """x less its mean, over its standard deviation."""
    centred = x - x.mean(axis=axes, keepdims=True)
    return np.asarray(centred / (centred.std(axis=axes, keepdims=True) + 1e-5))
