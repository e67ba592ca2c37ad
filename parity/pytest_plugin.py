"""Fixtures for the test suites of ports, there for every project that has this package installed.

    def test_my_features(parity_reference):
        parity_reference.check(my_port(parity_reference.audio), "features")

The reference is of the sample clip and the front end. For another clip or a model, put this in
conftest.py; the options are those of `parity.compare`:

    @pytest.fixture(scope="session")
    def parity_options():
        return {"audio": "clip.wav", "model": "openai/whisper-tiny"}
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest

# pytest imports this file in every run of every project's tests: nothing but melfront, so no NumPy.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .pipeline import Pipeline
    from .stages import Stage


class Reference:
    """The truth of one clip, computed when it is asked for and kept.

    Takes the options of `parity.compare`: audio, model, n_mels, convention, pad_to, check_range,
    computed_in, quantised, accept. The truth of quantised weights is computed with them.
    """

    def __init__(
        self,
        computed_in: str | None = None,
        quantised: str | None = None,
        accept: Any = None,
        **options: Any,
    ) -> None:
        self.bits = (computed_in, quantised)
        self.accept = accept
        self.options = options
        self.kept: dict[Stage, NDArray[Any]] = {}

    @cached_property
    def pipeline(self) -> Pipeline:
        from .resolve import NO_DUMP, resolve

        return resolve(NO_DUMP, None, **self.options)[0].in_fewer_bits(*self.bits)

    @cached_property
    def audio(self) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """The clip to feed your port with: (N,) float32 at 16 kHz; of a batch a list of them."""
        import numpy as np

        clips = self.pipeline.clips
        arrays = [np.asarray(clip, dtype=np.float32) for clip in clips.arrays]
        return arrays if clips.batched else arrays[0]

    def stage(self, name: str) -> NDArray[Any]:
        """The float64 truth of a stage, by its name or an alias. Raises ParityError, ValueError."""
        from .comparison.expected import free_truth
        from .files.names import stages_of

        (stage,) = stages_of([name], self.pipeline.n_layer).values()
        if stage not in self.kept:
            self.kept |= free_truth(self.pipeline, [stage])
        return self.kept[stage]

    def check(self, tensor: Any, stage: str) -> None:
        """Assert that a tensor of yours is right to within the noise of its type.

        tensor: an array or tensor in any layout that `parity.compare` knows. Raises AssertionError
        with the whole report: which stage, how wrong, where, and the mistake that it looks like.
        """
        __tracebackhide__ = True
        from .comparison.compare import compare, compare_with, load
        from .comparison.reports.repeat import as_call
        from .files.by_stage import by_stage

        given = by_stage(load({stage: tensor}), self.pipeline.n_layer)
        report = compare_with(self.pipeline, given, accept=self.accept)
        bits = dict(zip(("computed_in", "quantised"), self.bits, strict=True))
        arguments = {"mine": {stage: tensor}, **self.options, **bits, "accept": self.accept}
        report.repeat = as_call("parity.compare", compare, arguments)
        if not report.ok:
            raise AssertionError(f"\n{report}")


@pytest.fixture(scope="session")
def parity_options() -> dict[str, Any]:
    """What `parity_reference` is the reference of; override it in your conftest.py."""
    return {}


@pytest.fixture(scope="session")
def parity_reference(parity_options: dict[str, Any]) -> Reference:
    """The truth of every stage for one clip: `.audio`, `.stage(name)`, `.check(tensor, stage)`."""
    return Reference(**parity_options)
