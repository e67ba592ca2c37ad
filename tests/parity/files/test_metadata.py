"""The metadata of dumps: contradictions, and the clips and models that they name."""

import json

import huggingface_hub
import numpy as np
import pytest
import soundfile
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from melfront import parity
from melfront.parity.files.dump import dump
from melfront.parity.signals import SIGNALS

SPEECH = SIGNALS["speech"].make()
TOY = SIGNALS["toy"].make()
OPTIONS = {"n_mels": 80, "pad_to": None}


def write_clip(path, samples):
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    return path


def write_npz(path, tensors, **metadata):
    """An .npz with this metadata and no hash, as `melfront encoder -o` writes it."""
    np.savez(path, metadata=np.array(json.dumps(metadata)), **tensors)
    return path


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.wav", TOY)


@pytest.fixture
def mine(clip):
    return parity.trace(TOY, "formula:toy")


# --- contradictions -------------------------------------------------------------------------------


def test_model_differs_from_the_reference(tmp_path, clip, mine):
    """The dump names a model that exists, but whose hash differs from the reference's."""
    dump(tmp_path / "truth.npz", clip, "formula:toy")
    path = write_npz(tmp_path / "mine.npz", mine, clip=str(clip), model="formula:toy-quiet")
    with pytest.raises(parity.ParityError) as error:
        parity.compare(path, tmp_path / "truth.npz")
    assert "the dump is of the model 'formula:toy-quiet'" in str(error.value)
    assert "the reference of the model 'formula:toy'" in str(error.value)
    assert "--model" not in str(error.value)


def test_clip_differs_from_the_reference(tmp_path, clip, mine):
    other = write_clip(tmp_path / "other.wav", TOY[::-1])
    dump(tmp_path / "truth.npz", clip, "formula:toy")
    path = write_npz(tmp_path / "mine.npz", mine, clip=str(other))
    with pytest.raises(parity.ParityError) as error:
        parity.compare(path, tmp_path / "truth.npz")
    assert "the dump is of the clip" in str(error.value)
    assert "other.wav" in str(error.value)
    assert "the reference of the clip" in str(error.value)
    assert "clip.wav" in str(error.value)


def test_option_contradicts_the_reference(tmp_path, clip, mine):
    other = write_clip(tmp_path / "other.wav", TOY[::-1])
    dump(tmp_path / "truth.npz", clip, "formula:toy")
    for option, words in (
        ({"audio": other}, r"clip '.*clip\.wav', not of '.*other\.wav': .* --audio"),
        ({"model": "formula:toy-quiet"}, "model 'formula:toy', not of 'formula:toy-quiet': .*--m"),
    ):
        with pytest.raises(parity.ParityError, match=f"the reference is of the {words}"):
            parity.compare(mine, tmp_path / "truth.npz", **option)


def test_clip_changed_since_the_dump(tmp_path, clip):
    dump(tmp_path / "mine.npz", clip, **OPTIONS)
    write_clip(clip, TOY[::-1])
    for arguments in ((), (tmp_path / "mine.npz",)):
        with pytest.raises(parity.ParityError, match="not what the dump was made from, but has"):
            parity.compare(tmp_path / "mine.npz", *arguments)


def test_error_names_the_clips_of_both_dumps(tmp_path, clip):
    other = write_clip(tmp_path / "other.wav", TOY[::-1])
    dump(tmp_path / "mine.npz", clip, **OPTIONS)
    dump(tmp_path / "truth.npz", other, **OPTIONS)
    with pytest.raises(parity.ParityError, match=r"clip\.wav' \(.*other\.wav' \("):
        parity.compare(tmp_path / "mine.npz", tmp_path / "truth.npz")


# --- the network ----------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """Records each request to the Hub. The local cache is empty."""
    calls = []

    def download(repository, filename, local_files_only=False, **_):
        if not local_files_only:
            calls.append(repository)
        raise LocalEntryNotFoundError(f"{filename} is not here")

    monkeypatch.setattr("melfront.encoder.checkpoint.hub.connect", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    return calls


def test_reference_that_names_a_hub_model(tmp_path, clip, mine, asked):
    """The comparison works without the model, which is only needed for a diagnosis."""
    path = tmp_path / "truth.safetensors"
    dump(path, clip, "formula:toy")
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata={**metadata, "model": "someone/whisper-toy"})
    assert parity.compare(mine, path).ok
    wrong = {"ln_post": 1.01 * load_file(path)["ln_post"]}
    text = parity.compare(wrong, path).headline()
    assert "not diagnosed: the model is missing, pass it with --model" in text
    assert asked == []
    with pytest.raises(parity.ParityError, match="someone/whisper-toy"):
        parity.compare(mine, path, model="someone/whisper-toy")
    with pytest.raises(parity.ParityError, match="someone/whisper-toy"):
        parity.compare(path)
    assert asked == ["someone/whisper-toy"] * 2


# --- values of other types ------------------------------------------------------------------------


def test_metadata_of_other_types(tmp_path, clip):
    """Metadata may contain JSON numbers instead of strings."""
    features = parity.trace(TOY, **OPTIONS)["features"]
    path = write_npz(tmp_path / "mine.npz", {"features": features}, clip=str(clip), n_mels=80)
    assert parity.compare(path, pad_to=None).ok
    write_npz(path, {"features": features}, clip=7)
    with pytest.raises(parity.ParityError, match="clip '7'"):
        parity.compare(path)


@pytest.mark.parametrize(
    ("key", "value"), [("floor", "None"), ("sampled", "a"), ("sampled", "37 2.5"), ("floor", "x")]
)
def test_invalid_floor_or_sampled_shape(tmp_path, key, value):
    features = np.float32(parity.trace(SPEECH, **OPTIONS)["features"])
    path = tmp_path / "mine.safetensors"
    save_file({"features": features}, path, metadata={f"{key}.features": value})
    with pytest.raises(parity.ParityError, match=f"the metadata '{key}.features'"):
        parity.compare(path, path, audio=SPEECH, pad_to=None)


# --- truncated clips ------------------------------------------------------------------------------


def test_truncated_clip_is_reported(tmp_path, capsys):
    from melfront.parity.__main__ import main

    clip = str(write_clip(tmp_path / "long.wav", np.tile(SPEECH, 85)))  # 31 s
    out = str(tmp_path / "dump.npz")
    line = f"clip {clip}, its first 30 s, 80 bins, convention transformers"
    options = [clip, "--n-mels", "80", "--stages", "features", "-o", out]
    assert main(["dump", *options]) == 0
    assert capsys.readouterr().out.splitlines() == [line, f"1 stage written to {out}"]
    assert main(["compare", out]) == 0
    assert capsys.readouterr().out.startswith(f"{line}\n")
    assert main(["dump", *options, "--pad-to", "none"]) == 0
    assert f"clip {clip}, 80 bins" in capsys.readouterr().out


def test_truncated_batch_is_reported():
    features = np.stack([parity.trace(x, n_mels=80, pad_to=0.1)["features"] for x in (SPEECH, TOY)])
    report = parity.compare({"features": features}, audio=[SPEECH, TOY], n_mels=80, pad_to=0.1)
    assert report.ok
    assert "clip the array given, the first 0.1 s of each, 80 bins" in str(report)
