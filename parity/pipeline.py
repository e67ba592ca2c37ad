"""The pipeline run on a clip and a model: in float64, and as a right port in another type.

Float64 is the oracle's, and the truth. A right port is what transformers computes in the type at
hand, and its error is one unit of noise: the features come from our torch path, which is the same
computation, the stages that transformers does not show from its steps written out here, the
encoder's from our model.

    # N n_fft  F frames  K frequencies  M mel bins
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tqdm import tqdm  # type: ignore[import-untyped]  # as in encoder/__main__.py

import melfront
from melfront import variants
from melfront.audio import Clips, as_clips, digest, fit_length
from melfront.command import PROGRESS
from melfront.conventions import (
    CHUNK_LENGTH,
    DYNAMIC_RANGE,
    FRAMES_PER_SECOND,
    HOP_LENGTH,
    LOG_FLOOR,
    N_FFT,
    SAMPLE_RATE,
    TRANSFORMERS,
    Convention,
)
from melfront.encoder import CheckpointError, WhisperEncoder, ops
from melfront.encoder import oracle as encoder_oracle

from .arithmetic.kinds import AS_STORED, EXACT, FACTORS, STORED
from .arithmetic.products import products, quantised, rounded
from .noise import Array, noise_floor
from .stages import FRONT_END, Name, ParityError, Stage, of_encoder

MAX_SECONDS = 3600  # that a clip is padded to: some GB in float64


class Stop(Exception):
    """Raised by a tap that has seen all it wants."""


class Seen(dict[str, Array]):
    """A tap that keeps these stages, or every stage, and stops after the last one asked for."""

    def __init__(self, wanted: Iterable[str] | None = None, upto: str = "") -> None:
        super().__init__()
        self.wanted, self.upto = wanted, upto

    def __call__(self, stage: str, tensor: Array) -> Array:
        if self.wanted is None or stage in self.wanted:
            self[stage] = tensor
        if stage == self.upto:
            raise Stop
        return tensor


@dataclass
class Pipeline:
    """A clip or batch, a model, a convention: what is compared, and how to compute it.

    audio is what `melfront.log_mel` takes; model may be None while only the front end is asked for.
    """

    audio: Any
    model: WhisperEncoder | None = None
    n_mels: int = 128
    convention: Convention = TRANSFORMERS
    pad_to: float | None = CHUNK_LENGTH
    clip_name: str = "sample"
    model_name: str = ""
    layers: int | None = None  # how many blocks the model has, if the model itself is missing
    check_range: bool = True  # as of `melfront.log_mel`
    file: str | None = None  # that the clip was read from
    start: int = 0  # of the clip in it, in samples at 16 kHz
    windows: int = 1  # of the clip that are compared, one by one; for `describe`
    whole_ctx: int | None = None  # the model's own n_audio_ctx, where its positions are cut
    bins_matter: bool = True  # False: no stage compared has mel bins, and n_mels is a guess
    runs: dict[tuple[str, str], Array] | None = None  # (mistake, stage): kept only if there is one
    computed_in: str | None = None  # of FACTORS or EXACT; None: not said, so it may be found
    stored_in: str | None = None  # of STORED or AS_STORED, which `model` has; None: not said
    whole: Pipeline | None = None  # the same with the checkpoint's own weights, if those differ
    inputs: dict[str, Array] = field(init=False, default_factory=dict, repr=False)  # of blocks
    _floors: dict[tuple[str, str], float] = field(init=False, default_factory=dict, repr=False)

    @cached_property
    def given(self) -> Clips:
        return as_clips(self.audio, check_range=self.check_range).numpy()

    @cached_property
    def clips(self) -> Clips:
        return self.given.cut(fit_length(self.given, self.pad_to, truncate=True))

    @cached_property
    def length(self) -> int:
        return fit_length(self.clips, self.pad_to, truncate=True)

    @property
    def stages(self) -> list[Stage]:
        """The stages that can be computed, in order."""
        return [*FRONT_END, *(of_encoder(self.model.config.n_audio_layer) if self.model else ())]

    @property
    def n_layer(self) -> int | None:
        return self.model.config.n_audio_layer if self.model else self.layers

    @property
    def n_audio(self) -> int:
        """How many positions hold audio: half the frames, rounded up."""
        longest = max(len(clip) for clip in self.clips.arrays)
        return -(-longest // (2 * HOP_LENGTH))

    @cached_property
    def clip_digest(self) -> str:
        return digest(*self.clips.arrays)

    def front_end(
        self, convention: Convention | None = None, upto: str = "features"
    ) -> dict[str, Array]:
        """Every front-end stage up to one, float64, under this or another convention."""
        seen = Seen(upto=upto)
        with suppress(Stop):
            variants.run(self.clips, self.length, self.n_mels, convention or self.convention, seen)
        return seen

    @cached_property
    def front_end_truth(self) -> dict[str, Array]:
        return self.front_end()

    def encoder_input(self, stage: str) -> Array:
        """The float64 truth of a stage that a block starts from, computed once."""
        if stage not in self.inputs:
            self.inputs[stage] = self.encoder_truth({stage}, upto=stage)[stage]
        return self.inputs[stage]

    def encoder_truth(self, wanted: Iterable[str], upto: str = "ln_post") -> dict[str, Array]:
        """These encoder stages from the float64 oracle, one clip (T, S) or a batch (B, T, S)."""
        model, wanted, results = self.needed_model(), set(wanted), []
        features = self.heard(self.front_end_truth["features"])
        for mel in features if self.clips.batched else [features]:
            seen = Seen(wanted, upto)
            with suppress(Stop), self.progress("float64", seen) as seeing:
                encoder_oracle.encode(mel, model.state_dict(), model.config, seeing)
            results.append(seen)
        if not self.clips.batched:
            return results[0]
        return {name: np.stack([r[name] for r in results]) for name in results[0]}

    @contextmanager
    def progress(self, what: str, tap: Any) -> Iterator[Any]:
        """The tap, with a progress bar of the encoder's stages where stderr is a terminal."""
        names = of_encoder(self.n_layer or 0)
        with tqdm(total=len(names), desc=what, unit="stage", **PROGRESS) as bar:

            def passed(stage: str, tensor: Any) -> Any:
                bar.update(stage in names)
                return tap(stage, tensor)

            yield passed

    def run(self, tap: Any, encoder: bool) -> None:
        """The whole float64 pipeline of one clip, with a tap that may put in other tensors."""
        features = variants.run(self.clips, self.length, self.n_mels, self.convention, tap)
        if encoder:
            model = self.needed_model()
            with self.progress("float64", tap) as seeing:
                mel = self.heard(features)
                encoder_oracle.encode(mel, model.state_dict(), model.config, seeing)

    def heard(self, features: Any) -> Any:
        """The features (..., M, F) that the encoder takes: fewer where its positions are cut."""
        config, given = self.needed_model().config, features.shape[-1]
        most = 2 * (self.whole_ctx or config.n_audio_ctx)
        if not config.n_frames <= given <= most:
            seconds = min(most, given // 2 * 2) / FRAMES_PER_SECOND
            raise ParityError(
                f"{given} frames; this encoder takes an even number, up to {most}: pass "
                f"--pad-to {seconds:g}"
            )
        return features[..., : config.n_frames]

    def describe(self) -> str:
        model = f", model {self.model_name}" if self.model else ""
        if self.model and self.whole_ctx:
            positions = self.model.config.n_audio_ctx
            model += f", {positions} of its {self.whole_ctx} positions, which is not what "
            model += "transformers computes"
        clip = f"clip {self.clip_name}"
        if self.audio is not None and max(map(len, self.given.arrays)) > self.length:
            seconds = f"{self.length / SAMPLE_RATE:g} s"
            batched = self.clips.batched
            clip += f", the first {seconds} of each" if batched else f", its first {seconds}"
            if self.windows > 1:
                clip = f"clip {self.clip_name}, its {self.windows} windows of {seconds}"
        bins = f", {self.n_mels} bins" if self.bins_matter else ""
        return f"{clip}{bins}, convention {self.convention.name}{model}{self.fewer_bits}"

    @property
    def fewer_bits(self) -> str:
        stored = STORED[self.stored_in] if self.stored_in not in (None, AS_STORED) else ""
        factors = FACTORS[self.computed_in] if self.computed_in not in (None, EXACT) else ""
        return "".join(f", {words}" for words in (stored, factors) if words)

    def in_fewer_bits(self, computed_in: str | None, stored_in: str | None) -> Pipeline:
        """The same with products and weights of these kinds; None leaves open which.

        Raises ParityError for an unknown kind, and for quantised weights without a model.
        """
        for kind, known in ((computed_in, (EXACT, *FACTORS)), (stored_in, (AS_STORED, *STORED))):
            if kind is not None and kind not in known:
                raise ParityError(f"unknown format {kind!r}; expected one of {', '.join(known)}")
        base = self.whole or self
        other = replace(base, computed_in=computed_in, stored_in=stored_in, runs=None)
        if stored_in not in (None, AS_STORED):
            other.model, other.whole = quantised(base.needed_model(), stored_in), base
        same = ("given", "clips", "length", "front_end_truth")
        vars(other).update({name: vars(self)[name] for name in same if name in vars(self)})
        return other

    def needed_model(self) -> WhisperEncoder:
        if self.model is None:
            raise ParityError("encoder stages need the model that made them: pass --model")
        return self.model

    def floors(
        self,
        truth: Mapping[Name, Array],
        dtype: str,
        view: Callable[[str, Array], Array] = lambda _, tensor: tensor,
    ) -> dict[Name, float]:
        """One unit of noise of these stages: the rms error of a right port in this type.

        truth: stage to float64 tensor. `view(stage, tensor)` cuts a port's tensor to what the truth
        holds of that stage; a stage whose shape still differs is left out.
        """
        missing = {name for name in truth if (name, dtype) not in self._floors}

        def weigh(stage: Any, tensor: Array) -> Array:
            if stage in missing and (seen := view(stage, tensor)).shape == truth[stage].shape:
                self._floors[stage, dtype] = noise_floor(truth[stage], seen, dtype)
            return tensor

        if missing:
            kind = "float32" if dtype == "float64" else dtype
            self.run_right_port(weigh, needs_encoder(missing), kind)
        return {name: self._floors[name, dtype] for name in truth if (name, dtype) in self._floors}

    def right_port(self, wanted: Iterable[str], dtype: str) -> dict[str, Array]:
        """These stages as a right implementation has them in this type."""
        seen = Seen(set(wanted))
        self.run_right_port(seen, needs_encoder(seen.wanted or ()), dtype)
        return seen

    def run_right_port(self, tap: Any, encoder: bool, dtype: str = "float32") -> None:
        """The whole pipeline as transformers computes it in this type; the tap only looks."""
        kind = getattr(torch, dtype)
        out = transformers_stages(self)
        for name, tensor in out.items():
            tap(name, rounded(tensor, kind).numpy())
        if not encoder:
            return
        model = self.needed_model()
        if kind != torch.float32:
            weights = {k: w.to(kind) for k, w in model.state_dict().items()}
            model = WhisperEncoder.from_weights(model.config, weights)

        def look(stage: str, tensor: torch.Tensor) -> torch.Tensor:
            values = tensor if self.clips.batched else tensor[0]
            tap(stage, values.float().numpy())
            return tensor

        rounding = products(self.computed_in or EXACT, results=True)
        with torch.no_grad(), ops.using(**rounding), self.progress(dtype, look) as seeing:
            model(self.heard(out["features"]).to(kind), tap=seeing)


def needs_encoder(names: Iterable[str]) -> bool:
    return any(name not in FRONT_END for name in names)


def transformers_stages(pipeline: Pipeline) -> dict[str, torch.Tensor]:
    """transformers' torch path, step by step in float32, with every stage kept.

    Reproduces WhisperFeatureExtractor._torch_extract_fbank_features, but for the last dropped
    frame, which is dropped at once. The features are those of `melfront.log_mel` under the
    pipeline's convention.
    """
    length = pipeline.length + pipeline.convention.extra_padding
    rows = [
        torch.nn.functional.pad(torch.as_tensor(clip).float(), (0, length - len(clip)))
        for clip in pipeline.clips.arrays
    ]
    x = torch.stack(rows)  # (B, L)
    out = {}
    half = N_FFT // 2
    x = out["padded"] = torch.nn.functional.pad(x, (half, half), mode="reflect")
    x = out["frames"] = x.unfold(-1, N_FFT, HOP_LENGTH)[:, :-1]  # (B, F, N)
    x = out["windowed"] = x * torch.hann_window(N_FFT)
    x = out["spectrum"] = torch.fft.rfft(x)  # (B, F, K)
    x = out["power"] = x.abs() ** 2
    filters = torch.from_numpy(np.array(melfront.mel_filters(pipeline.n_mels))).float()
    x = out["mel"] = filters @ x.mT  # (B, M, F)
    x = out["log"] = x.clamp(min=LOG_FLOOR).log10()
    together = pipeline.convention.max_scope == "batch"
    counts = variants.counted(pipeline.clips, x.shape[-1], pipeline.convention)
    counting = x.masked_fill(~torch.as_tensor(counts), -math.inf)
    loudest = counting.amax() if together else counting.amax((1, 2), keepdim=True)
    out["clamped"] = torch.maximum(x, loudest - DYNAMIC_RANGE)
    tensors = [torch.as_tensor(clip).float() for clip in pipeline.clips.arrays]
    with torch.enable_grad():  # a CPU tensor that needs a gradient is computed in float32
        out["features"] = melfront.log_mel(
            [tensor.requires_grad_() for tensor in tensors],
            n_mels=pipeline.n_mels,
            convention=pipeline.convention,
            pad_to=pipeline.pad_to,
            check_range=pipeline.check_range,
        ).detach()
    return out if pipeline.clips.batched else {name: tensor[0] for name, tensor in out.items()}


def load_model(name: str, local_only: bool = False) -> WhisperEncoder:
    """The model of a --model option: a folder, a file, a Hub name, or one of `encoder.built_in`.

    local_only: a Hub name is looked up in the local cache, and the Hub is not asked.
    Raises ParityError.
    """
    try:
        return WhisperEncoder.from_pretrained(name, local_files_only=local_only)
    except (CheckpointError, OSError) as error:
        raise ParityError(str(error)) from error


def shorter(model: WhisperEncoder, positions: int) -> WhisperEncoder:
    """The encoder that has only the first positions: `strict_length=False` of as many."""
    weights = dict(model.state_dict())
    weights["positions"] = weights["positions"][:positions]
    return WhisperEncoder.from_weights(replace(model.config, n_audio_ctx=positions), weights)
