"""Which bytes of a checkpoint on the Hub are read, where they are kept, and what is shown."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import safetensors.torch
import torch
from huggingface_hub.utils import disable_progress_bars

from melfront.encoder.checkpoint import load
from melfront.encoder.checkpoint.hub import _fetch
from melfront.encoder.config import EncoderConfig
from tests.conftest import SHARED
from tests.encoder.checkpoint.checkpoints import (
    HF,
    NARROW,
    assert_same,
    make,
    refuses,
    renamed,
    under,
    write,
    write_shards,
)
from tests.encoder.checkpoint.stand_in import (
    COMMITS,
    NAME,
    WEIGHTS,
    assert_offline,
    connected,
    files,
    n_bytes,
    stored,
    with_decoder,
)

WIDE = EncoderConfig(80, 1500, 256, 4, 3, 1024)  # its header is 0.2 % of it, as in tiny


def encoder_names(names, path):
    return [name for name in names if name.startswith("model.encoder.")]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with connected(tmp_path, monkeypatch) as hub:
        yield hub


# --- what is read -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_bytes_that_are_read(hub, tmp_path, monkeypatch, dtype):
    hub.commits[COMMITS[0]] = files(WIDE, dtype)
    config, read = load(NAME)
    assert config == WIDE
    assert_same(read, make(WIDE, dtype))
    needed = n_bytes(read)
    assert needed < hub.sent <= 1.02 * needed  # the rest is the header and config.json

    path = write(tmp_path / "local" / WEIGHTS, with_decoder(WIDE, dtype), WIDE)
    assert_same(load(path)[1], read)
    assert path.stat().st_size > 3 * needed

    hub.asked.clear()
    hub.shutdown()
    hub.server_close()
    assert_same(load(NAME)[1], read)
    assert_same(load(NAME, local_files_only=True)[1], read)
    assert_offline(monkeypatch, read, WIDE)
    assert not hub.asked


def test_bytes_of_trained_weights(hub):
    folder = SHARED / "whisper-tiny.en"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing; MELFRONT_SHARED names the folder that contains it")
    hub.commits[COMMITS[0]] = {n: (folder / n).read_bytes() for n in (WEIGHTS, "config.json")}
    config, read = load(NAME)
    expected_config, expected = load(folder)
    assert config == expected_config
    assert_same(read, expected)
    assert n_bytes(read) < hub.sent <= 1.02 * n_bytes(read)


def test_what_is_kept_is_a_safetensors_file(hub, tmp_path):
    load(NAME)
    (path,) = (tmp_path / "assets").rglob(WEIGHTS)
    kept = safetensors.torch.load_file(path)
    encoder = {n: x for n, x in with_decoder(NARROW).items() if n.startswith("model.encoder.")}
    assert kept.keys() == encoder.keys()
    assert all(torch.equal(kept[name], encoder[name]) for name in encoder)
    assert not stored(tmp_path / "hub")


def test_ranges_that_touch_are_one_request(hub):
    load(NAME)
    places = [place for method, name, place in hub.asked if (method, name) == ("GET", WEIGHTS)]
    assert len(places) == 3  # the header's length, the header, the tensors
    assert places[0] == "bytes=0-7"


def test_encoder_in_pieces(hub):
    """A decoder's tensor after each of the encoder's."""
    named = {}
    for name, tensor in renamed(make()).items():
        named |= {name: tensor, name.replace("encoder.", "zdecoder._"): torch.full((9,), torch.nan)}
    names = sorted(named, key=lambda name: name.replace("zdecoder._", "encoder."))
    header, data = {}, b""
    for name in names:
        raw = named[name].contiguous().numpy().tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "F32", "shape": [*named[name].shape], "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    hub.commits[COMMITS[0]][WEIGHTS] = len(text).to_bytes(8, "little") + text + data
    assert_same(load(NAME)[1], make())


@pytest.mark.parametrize("prefix", ["model.encoder.", "audio_tower."])
def test_shards(hub, tmp_path, monkeypatch, prefix):
    """Shards that hold a part of the encoder by themselves: what they have, the index says."""
    there = tmp_path / "there"
    tensors = under(prefix, make()) | {"decoder.norm": torch.full((3,), torch.nan)}
    write_shards(there, tensors, NARROW, ".safetensors")
    hub.commits[COMMITS[0]] = {path.name: path.read_bytes() for path in there.iterdir()}
    assert_same(load(NAME)[1], make())
    assert "part-3.safetensors" not in {name for _, name, _ in hub.asked}
    assert set(stored(tmp_path / "assets")) == {f"part-{i}.safetensors" for i in range(3)} | {
        f"{WEIGHTS}.index.json"
    }
    assert_offline(monkeypatch, make())


@pytest.mark.parametrize("column", [HF, 2], ids=["hf", "openai"])
@pytest.mark.parametrize("prefix", ["model.encoder.", "encoder.", ""])
def test_every_naming(hub, monkeypatch, prefix, column):
    named = renamed(make(), column, prefix)
    hub.commits[COMMITS[0]][WEIGHTS] = safetensors.torch.save(named)
    assert_same(load(NAME)[1], make())
    assert_offline(monkeypatch, make())


def test_a_prefix_that_is_named(hub, tmp_path):
    """Of two encoders each can be had, whichever came first."""
    one, two = make(), {name: tensor + 1 for name, tensor in make().items()}
    tensors = under("one.", one) | under("two.", two)
    hub.commits[COMMITS[0]][WEIGHTS] = safetensors.torch.save(tensors)
    refuses(NAME, "encoders, under 'one.' and 'two.'")
    assert_same(load(NAME, prefix="two.")[1], two)
    assert_same(load(NAME, prefix="one.")[1], one)


def test_pickles_are_read_whole(hub, tmp_path, monkeypatch):
    path = write(tmp_path / "there" / "pytorch_model.bin", renamed(make()))
    del hub.commits[COMMITS[0]][WEIGHTS]
    hub.commits[COMMITS[0]][path.name] = path.read_bytes()
    assert_same(load(NAME)[1], make())
    assert_offline(monkeypatch, make())


def test_without_config(hub, monkeypatch):
    """The next start also knows that there is none."""
    config = EncoderConfig(7, 11, 128, 2, 3, 17)
    hub.commits[COMMITS[0]] = {WEIGHTS: files(config)[WEIGHTS]}
    assert load(NAME)[0] == config
    hub.asked.clear()
    assert_offline(monkeypatch, make(config), config)
    load(NAME)
    assert not hub.asked


@pytest.mark.parametrize("revision", ["v2", "refs/pr/1", COMMITS[1]])
def test_revision(hub, monkeypatch, revision):
    other = {name: tensor + 1 for name, tensor in make().items()}
    data = safetensors.torch.save(renamed(other))
    hub.commits[COMMITS[1]] = hub.commits[COMMITS[0]] | {WEIGHTS: data}
    hub.revisions |= {"v2": COMMITS[1], "refs/pr/1": COMMITS[1]}
    assert_same(load(NAME, revision=revision)[1], other)
    assert_same(load(NAME)[1], make())
    assert_offline(monkeypatch, other, revision=revision)
    assert_offline(monkeypatch, make())
    refuses(NAME, "RevisionNotFoundError", revision="v3")


def test_refused_for_what_a_whole_file_is(hub, tmp_path):
    """A tensor that Whisper's encoder does not have is not overlooked."""
    surplus = "model.encoder.layers.0.self_attn.k_proj.bias"
    named = with_decoder(NARROW) | {surplus: torch.zeros(26)}
    named.pop("model.encoder.conv1.bias")
    path = write(tmp_path / "local" / WEIGHTS, named, NARROW)
    expected = refuses(path, "1 missing", "1 left over (Whisper's k projection has no bias)")
    hub.commits[COMMITS[0]][WEIGHTS] = path.read_bytes()
    assert refuses(NAME).partition("does not")[2] == expected.partition("does not")[2]


def test_model_without_encoder(hub):
    named = {f"bert.layer.{i}.weight": torch.zeros(999) for i in range(9)}
    hub.commits[COMMITS[0]][WEIGHTS] = safetensors.torch.save(named)
    refuses(NAME, f"{NAME}/{WEIGHTS} has no tensor of a Whisper encoder")
    assert hub.sent < 9 * 999  # the header alone


# --- the cache ----------------------------------------------------------------------------------


def test_whole_file_comes_first(hub, tmp_path):
    load(NAME)
    hub.asked.clear()
    whole = {name: tensor + 1 for name, tensor in make().items()}
    folder = tmp_path / "hub" / f"models--{NAME.replace('/', '--')}"
    write(folder / "snapshots" / COMMITS[0] / WEIGHTS, renamed(whole), NARROW)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMITS[0])
    assert_same(load(NAME)[1], whole)
    assert not hub.asked


def test_cache_that_cannot_be_written(hub, tmp_path, monkeypatch):
    """Then the whole file goes to the Hub's own cache."""
    (tmp_path / "assets").write_text("a file, no folder")
    assert_same(load(NAME)[1], make())
    assert set(stored(tmp_path / "hub")) == {WEIGHTS}
    assert_offline(monkeypatch, make())


def test_several_at_once(hub, tmp_path):
    def fetch(_):
        return _fetch(NAME, WEIGHTS, None, COMMITS[0], tmp_path / "assets", encoder_names)

    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(fetch, range(4)))
    assert_same(load(paths.pop(), config=NARROW)[1], make())
    assert not paths
    assert hub.sent < 2 * n_bytes(make())


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_killed(hub, tmp_path):
    """A process that is killed leaves what the next start goes on with."""
    hub.commits[COMMITS[0]] = files(WIDE)
    hub.stall = 3 << 20
    code = f"from melfront.encoder import checkpoint; checkpoint.load({NAME!r})"
    paths = {"HF_HOME": str(tmp_path), "HF_ASSETS_CACHE": str(tmp_path / "assets")}
    environment = os.environ | paths | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    pattern = "**/*.incomplete"
    wait = threading.Event()
    while not any(p.stat().st_size > 2 << 20 for p in (tmp_path / "assets").glob(pattern)):
        assert process.poll() is None
        wait.wait(0.05)
    process.kill()
    process.wait()
    hub.released.set()
    hub.stall = None
    hub.sent = 0
    assert_same(load(NAME)[1], make(WIDE))
    assert hub.sent < n_bytes(make(WIDE)) - (1 << 20)
    assert not list(tmp_path.glob(pattern))


# --- progress -----------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("wanted", [True, False])
def test_progress(hub, monkeypatch, wanted):
    """A bar of bytes, which huggingface_hub's own switch turns off."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", None)
    with contextlib.nullcontext() if wanted else disable_progress_bars():
        load(NAME)
    shown = sys.stderr.getvalue()
    assert (f"{NAME}: encoder: 100%" in shown) == wanted, shown


def test_no_progress_without_a_terminal(hub, capfd):
    load(NAME)
    assert capfd.readouterr() == ("", "")
