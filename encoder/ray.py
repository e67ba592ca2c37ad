"""Encode more clips than one machine can: a class for `map_batches` of Ray Data.

Ray hands out the clips, starts a dead worker again with those that it had, and writes what comes
out. `pip install 'melfront[ray]'` installs it.

    import ray
    from melfront.encoder.ray import EncodeClips

    clips = ray.data.read_binary_files("s3://bucket/clips", include_paths=True)
    states = clips.map_batches(
        EncodeClips,
        fn_constructor_kwargs={"model": "openai/whisper-tiny", "column": "bytes"},
        batch_size=8,
        compute=ray.data.ActorPoolStrategy(size=2),  # workers, each with the model
    )
    states.write_parquet("states")

    # W windows  T positions  S state  F frames
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

import melfront
from melfront.command.ends import reason

from .model import WhisperEncoder

Batch = dict[str, Any]  # column name -> array, an entry for each row


class EncodeClips:
    """Clips in, windows out: a row for each window of each clip.

    model, device, dtype: as for `melfront encoder`, which gives the same bits with one thread.
    column: of the clips, each as `melfront.load_audio` takes it - a path, which every worker must
        be able to read, the file's bytes, or a row of a `datasets` audio column - or a waveform
        (N,) of 16 kHz.
    check_range: as for `melfront.load_audio`.

    Raises CheckpointError where the model cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        column: str = "audio",
        device: str = "cpu",
        dtype: str = "float32",
        check_range: bool = True,
    ) -> None:
        # TF32 keeps only 10 bits of each factor, an error of 1e-3.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        kind = getattr(torch, dtype)
        self.model = WhisperEncoder.from_pretrained(model, device=device, dtype=kind)
        self.column, self.check_range = column, check_range

    def __call__(self, batch: Batch) -> Iterator[Batch]:
        """A batch of one row for each window, in order, so that a clip may be hours long.

        Each has the clip's other columns, and:
            window             its number, from 0
            last_hidden_state  (T, S), float32, or float16 if that is the dtype
            attention_mask     (F,) int32, 1 where a frame holds audio
            error              why the rest of the clip could not be read, in which case the two
                               above are NaN and 0; else empty
        """
        others = [name for name in batch if name != self.column]
        for i, clip in enumerate(batch[self.column]):
            row = {name: batch[name][i : i + 1] for name in others}
            for w, window in enumerate(self.windows(clip)):
                yield row | {"window": np.array([w])} | window

    def windows(self, clip: Any) -> Iterator[Batch]:
        """The columns of each window of a clip; of one that cannot be read, the error."""
        config = self.model.config
        if not isinstance(clip, (str, bytes, Mapping)):
            clip = {"array": np.asarray(clip), "sampling_rate": melfront.SAMPLE_RATE}
        seconds = config.n_frames * melfront.HOP_LENGTH / melfront.SAMPLE_RATE
        options: Any = {"n_mels": config.n_mels, "check_range": self.check_range, "compiled": False}
        try:
            for window in melfront.stream(clip, seconds, **options):
                yield columns(self.states(window.log_mel), window.attention_mask, "")
        except Exception as error:
            text = reason(error)  # raises a bug
            dtype = np.float16 if self.model.positions.dtype == torch.float16 else np.float32
            states = np.full((config.n_audio_ctx, config.n_audio_state), np.nan, dtype)
            yield columns(states, np.zeros(config.n_frames, np.int32), text)

    def states(self, mel: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The last hidden state (T, S) of features (M, F)."""
        with torch.inference_mode():
            x = self.model(mel).last_hidden_state[0].cpu()
        return (x.float() if x.dtype == torch.bfloat16 else x).numpy()  # NumPy has no bfloat16


def columns(states: Any, mask: Any, error: str) -> Batch:
    """The columns of a window, each with one entry."""
    return {
        "last_hidden_state": states[None],
        "attention_mask": mask[None],
        "error": np.array([error]),
    }
