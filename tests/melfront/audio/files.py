"""Audio files made in memory, and what holds for the windows of each."""

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest

import melfront

soundfile = pytest.importorskip("soundfile")

BIT_RATE = {"wmav2": 96_000, "libopencore_amrnb": 12_200}  # of encoders whose own is none, or low


def encoded(samples, rate=16_000, kind="wav", subtype="PCM_16") -> bytes:
    """The bytes of a file that libsndfile writes. samples (N,) or (N, channels), in [-1, 1]."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def noise(n, channels, seed=3):
    """(n, channels) whose spectrum falls with frequency, as that of speech does."""
    steps = np.random.default_rng(seed).standard_normal((n, channels)).cumsum(axis=0)
    return (steps - steps.mean(axis=0)) / (1.1 * np.abs(steps - steps.mean(axis=0)).max())


def by_av(samples, rate, codec, kind, options=None, streams=1, video=False) -> bytes:
    """The bytes of a file that FFmpeg writes. samples (N, 1 or 2 or 6) int16; None for no audio.

    A further stream is half as loud as the one before it.
    """
    with tempfile.TemporaryDirectory() as folder:  # `faststart` opens the file again
        file = Path(folder) / "clip"
        write_by_av(file, samples, rate, codec, kind, options or {}, streams, video)
        return file.read_bytes()


def write_by_av(file, samples, rate, codec, kind, options, streams, video):
    import av

    with av.open(file, "w", format=kind, options=options) as container:
        if video:
            pictures = container.add_stream("mpeg4", rate=25)
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[1]] if streams else ""
        sounds = [container.add_stream(codec, rate=rate, layout=layout) for _ in range(streams)]
        for sound in sounds:
            if codec in BIT_RATE:
                sound.bit_rate = BIT_RATE[codec]
        for _ in range(50 if video else 0):
            container.mux(pictures.encode(av.VideoFrame(64, 48, "yuv420p")))
        if video:
            container.mux(pictures.encode(None))
        for i, sound in enumerate(sounds):
            for start in range(0, len(samples), 1_000):
                piece = samples[start : start + 1_000] // 2**i
                packed = np.ascontiguousarray(piece).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
                frame.rate, frame.pts = rate, start
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))


def assert_same_windows(file, chunk_length, **options):
    """The windows of the stream are bit for bit those of the whole clip."""
    audio = melfront.load_audio(file)
    windows = list(melfront.stream(file, chunk_length, **options))
    chunks = list(melfront.chunks(audio, chunk_length))
    assert len(windows) == len(chunks) > 1
    for window, chunk in zip(windows, chunks, strict=True):
        features, mask = melfront.log_mel(chunk, pad_to=chunk_length, return_mask=True, **options)
        assert window.audio.dtype == np.float32
        assert np.array_equal(window.audio, chunk)
        assert np.array_equal(window.log_mel, features)
        assert np.array_equal(window.attention_mask, mask)
