"""Every container of clips gives the same features as plain arrays; check_range=False."""

import array
import io

import numpy as np
import pytest
import torch

import melfront
from melfront import AudioError
from melfront.__main__ import main
from tests.signals import Signal

datasets = pytest.importorskip("datasets")
pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")

CLIPS = [Signal("speech", n, seed=n).array() for n in (9_001, 7_777, 401)]
SAME = [clip[:401] for clip in CLIPS]  # of equal length: NumPy and pyarrow make them 2-D
OPTIONS = {"n_mels": 37, "pad_to": 1.0}


def objects(clips):
    result = np.empty(len(clips), dtype=object)
    result[:] = clips
    return result


def rows(clips):
    return [{"array": clip, "sampling_rate": 16_000} for clip in clips]


def dataset(clips, kind=None):
    return datasets.Dataset.from_dict({"x": clips, "audio": rows(clips)}).with_format(kind)


LIST_OF_FLOATS = pd.ArrowDtype(pa.list_(pa.float32()))
BATCHES = {
    "object array": objects,
    "object array by np.array": lambda clips: np.array(clips, dtype=object),
    "object array of dicts": lambda clips: objects(rows(clips)),
    "tuple": tuple,
    "lists of numbers": lambda clips: [clip.tolist() for clip in clips],
    "generator": lambda clips: (clip for clip in clips),
    "Series": pd.Series,
    "Series of lists": lambda clips: pd.Series([clip.tolist() for clip in clips]),
    "Series of Arrow lists": lambda clips: pd.Series(clips, dtype=LIST_OF_FLOATS),
    "Series of Series": lambda clips: pd.Series([pd.Series(clip) for clip in clips]),
    "column of a DataFrame": lambda clips: pd.DataFrame({"audio": rows(clips)})["audio"],
    "Arrow array": pa.array,
    "Arrow chunks": lambda clips: pa.chunked_array([clips[:1], clips[1:]]),
    "Arrow scalars": lambda clips: list(pa.array(clips)),
    "Arrow structs": lambda clips: list(pa.array(rows(clips))),
    "Ray block": lambda clips: pa.table({"audio": rows(clips)})["audio"],
    "nested tensor": lambda clips: torch.nested.nested_tensor([torch.tensor(c) for c in clips]),
    "jagged tensor": lambda clips: torch.nested.nested_tensor(
        [torch.tensor(c) for c in clips], layout=torch.jagged
    ),
}
for kind in (None, "numpy", "torch", "pandas", "arrow"):
    for name in ("x", "audio"):
        BATCHES[f"datasets {kind} column {name}"] = lambda c, k=kind, n=name: dataset(c, k)[n]
        BATCHES[f"datasets {kind} batch {name}"] = lambda c, k=kind, n=name: dataset(c, k)[:][n]
BATCHES["streamed column"] = lambda clips: dataset(clips).to_iterable_dataset()["x"]


@pytest.mark.parametrize("clips", [CLIPS, SAME], ids=["ragged", "equal lengths"])
@pytest.mark.parametrize("container", BATCHES)
def test_batch(container, clips):
    expected = melfront.log_mel(clips, **OPTIONS)
    batch = BATCHES[container](clips)
    result = melfront.log_mel(batch, **OPTIONS)
    if isinstance(result, torch.Tensor):
        expected = melfront.log_mel([torch.tensor(clip) for clip in clips], **OPTIONS)
    assert result.shape == expected.shape
    assert np.array_equal(result, expected)
    if container not in ("generator",):  # it is exhausted
        truth = melfront.oracle.log_mel(clips, **OPTIONS)
        assert np.array_equal(melfront.oracle.log_mel(batch, **OPTIONS), truth)


PCM = np.round(CLIPS[0] * 32_767).astype(np.int16)
ONE = {
    "Series": pd.Series,
    "Series of Float32": lambda clip: pd.Series(clip, dtype="Float32"),
    "Series of objects": lambda clip: pd.Series(clip.tolist(), dtype=object),
    "Arrow array": pa.array,
    "Arrow chunks": lambda clip: pa.chunked_array([clip[:77], clip[77:]]),
    "Arrow scalar": lambda clip: pa.array([clip])[0],
    "array.array": lambda clip: array.array("f", clip),
    "memoryview": memoryview,
    "object array": lambda clip: clip.astype(object),
    "row of a dataset": lambda clip: dataset([clip])[0]["audio"],
    "row in Arrow": lambda clip: dataset([clip], "arrow")["audio"][0],
    "row in torch": lambda clip: {
        "array": torch.tensor(clip),
        "sampling_rate": torch.tensor(16_000),
    },
}


@pytest.mark.parametrize("container", ONE)
def test_one_clip(container):
    result = melfront.log_mel(ONE[container](CLIPS[0]), **OPTIONS)
    assert result.shape == (37, 100)
    plain = torch.tensor if isinstance(result, torch.Tensor) else np.asarray
    assert np.array_equal(result, melfront.log_mel(plain(CLIPS[0]), **OPTIONS))


@pytest.mark.parametrize("hold", [pd.Series, pa.array, memoryview, lambda x: array.array("h", x)])
def test_integers_keep_their_type(hold):
    expected = melfront.log_mel(PCM, **OPTIONS)
    assert np.array_equal(melfront.log_mel(hold(PCM), **OPTIONS), expected)


def encoded(clip, rate=16_000) -> bytes:
    file = io.BytesIO()
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(file, clip, rate, format="wav", subtype="FLOAT")
    return file.getvalue()


def test_undecoded_rows(tmp_path):
    """`cast_column("audio", Audio(decode=False))`: bytes, a path, or both."""
    path = tmp_path / "clip.wav"
    path.write_bytes(encoded(CLIPS[1]))
    audio = [
        {"bytes": encoded(CLIPS[0]), "path": None},
        {"bytes": None, "path": str(path)},
        {"bytes": encoded(CLIPS[2]), "path": "not-here.wav"},
    ]
    expected = melfront.log_mel(CLIPS, **OPTIONS)
    assert np.array_equal(melfront.log_mel(audio, **OPTIONS), expected)
    assert np.array_equal(melfront.log_mel(audio[1], **OPTIONS), expected[1])
    table = datasets.Dataset.from_dict({"audio": audio})
    table = table.cast_column("audio", datasets.Audio(decode=False))
    for kind in (None, "numpy", "pandas", "arrow"):
        column = table.with_format(kind)["audio"]
        assert np.array_equal(melfront.log_mel(column, **OPTIONS), expected), kind
    at_48_khz = {"bytes": encoded(np.repeat(CLIPS[0], 3), 48_000), "path": None}
    assert melfront.log_mel(at_48_khz, **OPTIONS).shape == (37, 100)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([{"bytes": b"notes", "path": None}], AudioError, r"clip 0: .*not an audio file"),
        ({"bytes": None, "path": "none.wav"}, FileNotFoundError, r"none\.wav: no such file"),
        (
            {"bytes": None, "path": None},
            AudioError,
            r"without 'array', and without bytes or a path",
        ),
        ({"array": CLIPS, "sampling_rate": 16_000}, AudioError, "not a list of several"),
        (pd.Series(["a.wav", "b.wav"]), TypeError, r"clip 0.*melfront\.load_audio"),
        (pd.Series([CLIPS[0], None]), AudioError, r"clip 1: shape \(\)"),
        (bytearray(b"RIFF"), TypeError, r"melfront\.load_audio"),
        (memoryview(b"RIFF"), TypeError, r"melfront\.load_audio"),
        (io.BytesIO(b"RIFF\n"), TypeError, r"melfront\.load_audio"),
        ([0] * 401, AudioError, "dtype int64"),
        (np.array(["a"] * 401, dtype=object), TypeError, r"melfront\.load_audio"),
    ],
)
def test_container_without_audio(given, error, message):
    with pytest.raises(error, match=message):
        melfront.log_mel(given)


# Audio outside [-1, 1]


def unit_variance(n: int = 9_001) -> np.ndarray:
    """A clip after transformers' do_normalize, with a click above 10."""
    clip = Signal("speech", n, seed=3, scale=0.1).array()
    clip[n // 2] = 1
    return ((clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)).astype(np.float32)


def test_check_range_can_be_turned_off():
    clip = unit_variance()
    assert np.abs(clip).max() > 10
    truth = melfront.oracle.log_mel(clip, check_range=False)
    tensor = torch.tensor(clip)
    for compute in (melfront.log_mel, melfront.oracle.log_mel):
        with pytest.raises(AudioError, match="check_range=False"):
            compute(clip)
    for result in (
        melfront.log_mel(clip, check_range=False),
        melfront.log_mel([clip], check_range=False)[0],
        melfront.log_mel(tensor, check_range=False).numpy(),
        melfront.LogMel(check_range=False)(tensor).numpy(),
        melfront.log_mel(next(melfront.chunks(clip, check_range=False)), check_range=False),
    ):
        assert np.abs(result - truth).max() <= 3e-5
    with pytest.raises(AudioError, match="check_range=False"):
        melfront.LogMel()(tensor)
    stages = melfront.oracle.trace(clip, check_range=False)
    assert np.array_equal(stages["features"], truth)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_non_finite_samples_are_refused_without_check_range(kind, value):
    clip = unit_variance()
    clip[77] = value
    with pytest.raises(AudioError, match="sample 77 is"):
        melfront.log_mel(kind(clip), check_range=False)


def test_file_of_unit_variance(tmp_path, capsys):
    clip = unit_variance()
    path = tmp_path / "unit.wav"
    path.write_bytes(encoded(clip))
    assert np.array_equal(melfront.load_audio(path, check_range=False), clip)
    out = str(tmp_path / "unit.npy")
    assert main([str(path), "-o", out]) == 2
    assert "--no-check-range" in capsys.readouterr().err
    assert main([str(path), "-o", out, "--no-check-range"]) == 0
    assert np.array_equal(np.load(out), melfront.log_mel(clip, check_range=False, compiled=False))
