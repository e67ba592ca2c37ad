"""One clip or a batch: rows of `datasets`, integers, lengths, and ambiguous input."""

import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import melfront
from melfront import AudioError, audio
from tests.signals import Signal

soundfile = pytest.importorskip("soundfile")

CLIP = Signal("speech", 9_001, seed=3)


# Rows of a `datasets` column


class Decoder:
    """A stub of torchcodec's AudioDecoder: get_all_samples() with .data and .sample_rate."""

    def __init__(self, data: torch.Tensor, sample_rate: int = 16_000) -> None:
        self.samples = SimpleNamespace(data=data, sample_rate=sample_rate)

    def get_all_samples(self) -> SimpleNamespace:
        return self.samples


def test_dict_from_datasets():
    clip = CLIP.array()
    expected = melfront.log_mel(clip)
    item = {"path": "clip.wav", "array": clip.astype(np.float64), "sampling_rate": 16_000}
    assert np.array_equal(melfront.log_mel(item), expected)
    assert np.array_equal(melfront.log_mel({"array": clip.tolist()}), expected)
    batch = melfront.log_mel([item, {**item, "array": clip[:777]}])
    assert np.array_equal(batch[0], expected)
    with pytest.raises(AudioError, match=r"sampling rate 44100 Hz; Whisper expects 16000"):
        melfront.log_mel({**item, "sampling_rate": 44_100})
    with pytest.raises(AudioError, match=r"without 'array'.*bytes.*path"):
        melfront.log_mel({"path": None, "bytes": b""})


def test_torchcodec_decoder():
    clip = torch.tensor(CLIP.array())
    expected = melfront.log_mel(clip)
    assert torch.equal(melfront.log_mel(Decoder(clip[None])), expected)
    assert torch.equal(melfront.log_mel(Decoder(torch.stack([clip, clip]))), expected)
    batch = melfront.log_mel([Decoder(clip[None]), Decoder(clip[None, :777])])
    assert batch.shape == (2, 128, 3_000)
    with pytest.raises(AudioError, match="sampling rate 8000 Hz"):
        melfront.log_mel(Decoder(clip[None], 8_000))


# Integers and shorter floats

PCM = {"int8": 2**7, "uint8": 2**7, "int16": 2**15, "int32": 2**31}


@pytest.mark.parametrize("dtype", PCM)
def test_integer_pcm_is_scaled_by_its_type(dtype):
    clip = CLIP.array().astype(np.float64)
    pcm = np.round(clip * PCM[dtype]) + (128 if dtype == "uint8" else 0)
    pcm = pcm.astype(dtype)
    back = (pcm.astype(np.float64) - (128 if dtype == "uint8" else 0)) / PCM[dtype]
    expected = melfront.log_mel(back.astype(np.float32))
    assert np.array_equal(melfront.log_mel(pcm), expected)
    tensor = melfront.log_mel(torch.from_numpy(pcm))
    assert tensor.dtype == torch.float32
    assert torch.equal(tensor, melfront.log_mel(torch.from_numpy(back.astype(np.float32))))
    assert np.array_equal(melfront.log_mel(pcm.astype(pcm.dtype.newbyteorder(">"))), expected)


@pytest.mark.parametrize("dtype", PCM)
def test_full_scale(dtype):
    info = np.iinfo(dtype)
    pcm = np.array([info.min, info.max] * 200, dtype=dtype)
    (clip,) = audio.as_clips(pcm).arrays
    assert clip.dtype == np.float32
    assert clip[0] == -1
    assert clip[1] == pytest.approx(1, abs=1 / PCM[dtype] + 1e-7)


@pytest.mark.parametrize("dtype", ["int64", "uint16", "bool", "complex64"])
def test_unsupported_dtype(dtype):
    with pytest.raises(AudioError, match=f"dtype {dtype} .*convert it to float32"):
        melfront.log_mel(np.zeros(401, dtype=dtype))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4", ">f8"])
def test_other_floats(dtype):
    clip = Signal("noise", 9_001).array().astype(dtype)
    result = melfront.log_mel(clip)
    assert result.dtype == np.float32
    assert np.abs(result - melfront.log_mel(clip.astype(np.float32))).max() <= 1e-6


def test_list_of_numbers_is_a_clip():
    clip = CLIP.array()
    assert np.array_equal(melfront.log_mel(clip.tolist()), melfront.log_mel(clip))
    assert np.array_equal(melfront.log_mel(tuple(clip.tolist())), melfront.log_mel(clip))


# Errors, in both pipelines, with NumPy and with torch


def kinds(array: np.ndarray):
    yield lambda: melfront.log_mel(array)
    yield lambda: melfront.oracle.log_mel(array)
    yield lambda: melfront.log_mel(torch.tensor(array))
    yield lambda: melfront.LogMel()(torch.tensor(array))
    yield lambda: list(melfront.chunks(array))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(0, np.float32), "no samples"),
        (np.zeros((2, 3, 401), np.float32), r"shape \(2, 3, 401\).*expected one clip"),
        (np.float32(0.5), r"shape \(\).*expected one clip"),
        (np.zeros((401, 2), np.float32), r"\(401, 2\) looks like one clip of 2 channels.*mean"),
        (np.zeros((0, 401), np.float32), "an empty batch"),
    ],
)
def test_shapes(array, message):
    for compute in kinds(array):
        with pytest.raises(AudioError, match=message):
            compute()


@pytest.mark.parametrize(("value", "name"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_not_finite(value, name):
    clip = CLIP.array()
    clip[[1_234, 5_678]] = value
    for compute in kinds(clip):
        with pytest.raises(AudioError, match=rf"sample 1234 is {name} \(2 of 9001 are not finite"):
            compute()
    with pytest.raises(AudioError, match=f"clip 1: sample 1234 is {name}"):
        melfront.log_mel([CLIP.array(), clip])
    # NaN is reported before values that are out of range.
    clip[0] = 1e5
    with pytest.raises(AudioError, match=f"sample 1234 is {name}"):
        melfront.log_mel(clip)


def test_int16_cast_to_float():
    clip = (CLIP.array() * 32_768).astype(np.float32)
    for compute in kinds(clip):
        with pytest.raises(AudioError, match=r"far outside \[-1, 1\].*cast to float.*32768"):
            compute()
    negative = -np.abs(clip)
    with pytest.raises(AudioError, match=r"far outside"):
        melfront.log_mel(negative)


def test_slightly_out_of_range_clip_is_accepted():
    assert melfront.log_mel(1.5 * Signal("tone", 9_001).array()).shape == (128, 3_000)


def test_errors_are_value_errors():
    assert issubclass(AudioError, ValueError)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_other_sampling_rate(rate):
    with pytest.raises(AudioError, match=rf"sampling rate {rate} Hz; Whisper expects 16000"):
        melfront.log_mel(CLIP.array(), sampling_rate=rate)
    assert melfront.log_mel(CLIP.array(), sampling_rate=16_000).shape == (128, 3_000)


def test_stereo_in_a_list():
    stereo = np.zeros((401, 2), np.float32)
    with pytest.raises(AudioError, match=r"clip 1: shape \(401, 2\).*Mix stereo down"):
        melfront.log_mel([CLIP.array(), stereo])


@pytest.mark.parametrize("given", ["speech.wav", b"RIFF", Path("speech.wav")])
def test_file_name_is_not_a_waveform(given):
    with pytest.raises(TypeError, match=r"waveform.*melfront\.load_audio"):
        melfront.log_mel(given)
    with pytest.raises(TypeError, match=r"clip 0: .*waveform"):
        melfront.log_mel([given])


def test_mixed_arrays_and_tensors():
    with pytest.raises(AudioError, match="both NumPy arrays and torch tensors"):
        melfront.log_mel([np.zeros(401, np.float32), torch.zeros(401)])


def test_empty_list():
    for empty in ([], ()):
        with pytest.raises(AudioError, match=r"no samples|no clips"):
            melfront.log_mel(empty)


@pytest.mark.parametrize("given", [None, 3, object()])
def test_object_that_is_not_audio(given):
    with pytest.raises((AudioError, TypeError)):
        melfront.log_mel(given)


# Clips over 30 s


def test_long_clip_is_not_truncated_silently():
    long = Signal("speech", 480_001).array()
    for compute in (
        melfront.log_mel,
        melfront.oracle.log_mel,
        lambda x: melfront.log_mel(torch.tensor(x)),
        lambda x: melfront.log_mel([x[:777], x]),
    ):
        with pytest.raises(
            AudioError, match=r"480001 .*pad_to=30 s.*chunks.*truncate.*pad_to=None"
        ):
            compute(long)
    cut = melfront.log_mel(long, truncate=True)
    assert cut.shape == (128, 3_000)
    assert np.array_equal(cut, melfront.log_mel(long[:480_000]))
    _, mask = melfront.log_mel(long, truncate=True, return_mask=True)
    assert mask.sum() == 3_000
    whole, mask = melfront.log_mel(long, pad_to=None, return_mask=True)
    assert whole.shape == (128, 3_000)
    assert mask.shape == (3_000,)
    assert melfront.log_mel(np.zeros(640_159, np.float32), pad_to=None).shape == (128, 4_000)


def test_chunks():
    clip = Signal("speech", 1_000_003).array()
    parts = list(melfront.chunks(clip))
    assert [len(part) for part in parts] == [480_000, 480_000, 40_003]
    assert np.array_equal(np.concatenate(parts), clip)
    assert parts[1].base is not None  # a view
    assert [len(part) for part in melfront.chunks(clip[:480_000])] == [480_000]
    assert [len(part) for part in melfront.chunks(clip[:16_001], 0.5)] == [8_000, 8_000, 1]
    pcm = (clip * 32_767).astype(np.int16)
    scaled = melfront.audio.as_clips(pcm).arrays[0]
    assert np.array_equal(np.concatenate(list(melfront.chunks(pcm))), scaled)
    tensors = list(melfront.chunks(torch.tensor(clip)))
    assert torch.equal(torch.cat(tensors), torch.tensor(clip))
    with pytest.raises(AudioError, match="one clip"):
        list(melfront.chunks([clip, clip]))
    for length in (0, -1.0, np.nan, np.inf):
        with pytest.raises(AudioError, match="positive length"):
            list(melfront.chunks(clip, length))


def test_chunks_do_not_copy_the_clip():
    clip = np.zeros(20_000_000, np.int16)  # 40 MB
    for kind in (np.int16, np.float32, np.float16):
        clip = clip.astype(kind)
        for held in (clip, torch.from_numpy(clip)):
            tracemalloc.start()
            for chunk in melfront.chunks(held):
                assert len(chunk) <= 480_000
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 8_000_000


@pytest.mark.parametrize("n", [1, 2, 199, 200])
def test_clip_too_short_to_reflect(n):
    clip = CLIP.array()[:n]
    for compute in (melfront.log_mel, melfront.oracle.log_mel):
        with pytest.raises(AudioError, match=rf"{n} samples are too few.*at least 201"):
            compute(clip, pad_to=None)
        assert compute(clip).shape == (128, 3_000)
    with pytest.raises(AudioError, match="at least 201"):
        melfront.log_mel(clip, pad_to=0.01, truncate=True)


def test_shortest_clip_without_padding():
    clip = CLIP.array()[:201]
    truth = melfront.oracle.log_mel(clip, pad_to=None)
    assert truth.shape == (128, 1)
    assert np.abs(melfront.log_mel(clip, pad_to=None) - truth).max() <= 1e-6


@pytest.mark.parametrize("pad_to", [-1.0, 0.0, float("inf"), float("nan")])
def test_invalid_pad_to(pad_to):
    with pytest.raises(AudioError):
        melfront.log_mel(CLIP.array(), pad_to=pad_to)
    with pytest.raises(AudioError):
        melfront.log_mel(CLIP.array(), pad_to=pad_to, truncate=True)
