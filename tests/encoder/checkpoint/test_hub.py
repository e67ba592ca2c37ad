"""Names on the Hugging Face Hub: where they are looked up, and which files are downloaded."""

import pytest
import torch

from melfront.encoder.checkpoint import load
from tests.encoder.checkpoint.checkpoints import (
    NARROW,
    assert_same,
    make,
    refuses,
    renamed,
    write,
    write_shards,
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty Hub cache, offline. huggingface_hub reads the environment on import."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.chdir(tmp_path)  # no folder of the checkout is mistaken for a model
    return tmp_path / "hub"


def snapshot(cache, repository, sha="0123456789abcdef0123456789abcdef01234567", ref="main"):
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / ref).write_text(sha)
    return folder / "snapshots" / sha


@pytest.mark.parametrize("name", ["openai/whisper-tiny", "whisper-tiny", "tiny"])
def test_name_in_the_cache(cache, name):
    write(snapshot(cache, "openai/whisper-tiny") / "model.safetensors", renamed(make()), NARROW)
    config, read = load(name)
    assert config == NARROW
    assert_same(read, make())
    assert_same(load(name, local_files_only=True)[1], make())


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("large-v1", "openai/whisper-large"),
        ("turbo", "openai/whisper-large-v3-turbo"),
        ("tiny.en", "openai/whisper-tiny.en"),
        ("distil-large-v3", "distil-whisper/distil-large-v3"),
        ("someone/fine-tuned_v1.0", "someone/fine-tuned_v1.0"),
    ],
)
def test_repository_of_a_name(cache, name, repository):
    write(snapshot(cache, repository) / "pytorch_model.bin", renamed(make()), NARROW)
    assert_same(load(name)[1], make())


def test_revision(cache):
    write(snapshot(cache, "openai/whisper-tiny") / "model.safetensors", renamed(make()), NARROW)
    other = {name: tensor + 1 for name, tensor in make().items()}
    folder = snapshot(cache, "openai/whisper-tiny", "f" * 40, "v2")
    write(folder / "model.safetensors", renamed(other), NARROW)
    assert_same(load("tiny")[1], make())
    assert_same(load("tiny", revision="v2")[1], other)
    assert_same(load("tiny", revision="f" * 40)[1], other)
    refuses("tiny", "cache at revision v3", revision="v3")


def test_shards_in_the_cache(cache):
    folder = snapshot(cache, "openai/whisper-tiny")
    write_shards(folder, renamed(make()), NARROW, ".safetensors").unlink()
    assert_same(load("tiny")[1], make())


def test_local_folder_takes_precedence(cache, tmp_path):
    write(snapshot(cache, "openai/whisper-tiny") / "model.safetensors", {"x": torch.zeros(1)})
    write(tmp_path / "openai/whisper-tiny/model.safetensors", renamed(make()), NARROW)
    write(tmp_path / "tiny/model.safetensors", renamed(make()), NARROW)
    assert_same(load("openai/whisper-tiny")[1], make())
    assert_same(load("tiny")[1], make())


@pytest.mark.parametrize("local_only", [True, False])
def test_not_in_the_cache(cache, monkeypatch, local_only):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", not local_only)
    refuses(
        "large-v3",
        "openai/whisper-large-v3 is not a local folder, its model.safetensors is not in the local",
        "give a local folder, or run `hf download openai/whisper-large-v3` where there is",
        local_files_only=local_only,
    )


def test_cached_files_are_not_requested(cache, monkeypatch):
    """A cached index is enough; the Hub is not asked for an unsharded file."""
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: pytest.fail("requested"))
    write_shards(snapshot(cache, "openai/whisper-tiny"), renamed(make()), NARROW, ".bin")
    assert_same(load("tiny")[1], make())


def test_hub_refuses_access(cache, monkeypatch):
    def download(*args, **options):  # offline: the Hub is not asked before
        raise OSError("401 Client Error.\n\nRepository Not Found, and so on")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    message = refuses("someone/private", "someone/private: OSError: 401 Client Error.")
    assert "and so on" not in message


@pytest.mark.parametrize(
    ("name", "near"),
    [("large-v4", "large-v"), ("tinny", "tiny"), ("whisper-bas", "base"), ("xyzzy", None)],
)
def test_unknown_name(cache, name, near):
    message = refuses(name, f"{name!r} is neither a file or folder nor the name of a Whisper")
    assert (f"nearest known size is '{near}" in message) if near else "nearest" not in message


@pytest.mark.parametrize(
    "name",
    ["foo/bar..baz--x", "openai/whisper-tiny.", "models--openai/whisper--tiny", "a/" + 97 * "b"],
)
def test_invalid_hub_name(cache, name):
    refuses(name, f"{name!r} is not a Hub name: ")


def test_no_retries_without_a_network(cache, monkeypatch):
    """hf_hub_download would try five times, for 23 seconds."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    nobody = "http://127.0.0.1:9"  # nothing listens there
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nobody)
    template = nobody + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("waited"))
    refuses("tiny", "the Hub cannot be reached")
    refuses("tiny", "cache at revision v2, and the Hub cannot be reached", revision="v2")


@pytest.mark.parametrize("name", ["weights/model.safetensors", "a/b/c", "./tiny", "/no/such", ""])
def test_no_such_path(cache, name):
    if name:
        refuses(name, f"{name!r} is neither a file or folder nor")
    else:
        refuses(name, "has no weights")  # "" is the current folder
