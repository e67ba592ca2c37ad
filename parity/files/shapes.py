"""The shape of every stage, for a clip and a model."""

from __future__ import annotations

from ..pipeline import Pipeline
from ..stages import Stage

Shapes = dict[Stage, tuple[int, ...]]


def stage_shapes(pipeline: Pipeline) -> Shapes:
    """Every stage's shape for this clip and model, in order."""
    c = pipeline.convention
    sizes = {"N": c.n_fft, "K": c.n_fft // 2 + 1, "M": pipeline.n_mels}
    sizes["L + N"] = pipeline.length + c.extra_padding + c.n_fft
    frames = (pipeline.length + c.extra_padding) // c.hop_length
    if pipeline.model:
        config = pipeline.model.config
        sizes |= {"T": config.n_audio_ctx, "S": config.n_audio_state, "A": config.n_audio_mlp}
        sizes["H"] = config.n_audio_head
    shapes: Shapes = {}
    for stage in pipeline.stages:
        # Extra padding has frames of its own, until the features are cut to the clip's.
        cut = stage == "features" or not stage.of_front_end
        sizes["F"] = pipeline.length // c.hop_length if cut else frames
        if pipeline.model and not stage.of_front_end:
            sizes["F"] = pipeline.model.config.n_frames
        shapes[stage] = tuple(sizes[letter] for letter in stage.axes)
        if stage == "spectrum":
            shapes[stage] += (2,)
    return shapes
