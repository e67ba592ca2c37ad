"""Names on the Hub whose decoder is not downloaded, against a stand-in that also misbehaves."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import safetensors.torch
import torch
from huggingface_hub.utils import disable_progress_bars

from melfront.encoder.checkpoint import CheckpointError, load, ranges
from melfront.encoder.config import EncoderConfig
from tests.conftest import SHARED
from tests.encoder.checkpoint.checkpoints import (
    HF,
    NARROW,
    assert_same,
    make,
    refuses,
    renamed,
    write,
    write_shards,
)
from tests.encoder.checkpoint.stand_in import COMMITS, serve

NAME = "someone/whisper-small-scale"
WEIGHTS = "model.safetensors"
WIDE = EncoderConfig(80, 1500, 256, 4, 3, 1024)  # its header is 0.2 % of it, as in tiny


def with_decoder(config, dtype=torch.float32):
    """A file of an encoder between the tensors of a decoder, of twice its size."""
    named = renamed(make(config, dtype))
    size = sum(tensor.numel() for tensor in named.values())
    named["model.decoder.embed_tokens.weight"] = torch.full((size,), torch.nan, dtype=dtype)
    named["proj_out.weight"] = torch.full((size,), torch.nan, dtype=dtype)
    return named


def files(config=NARROW, dtype=torch.float32):
    data = safetensors.torch.save(with_decoder(config, dtype), {"format": "pt"})
    return {WEIGHTS: data, "config.json": json.dumps(config.to_hf()).encode()}


def n_bytes(weights):
    return sum(tensor.nbytes for tensor in weights.values())


def list_of_encoder(names, path):
    return [name for name in names if name.startswith("model.encoder.")]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with one repository, and empty caches. huggingface_hub reads the environment once."""
    with serve(NAME, files()) as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_ASSETS_CACHE": str(tmp_path / "assets"),
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setattr("time.sleep", lambda _: None)  # between two attempts
        monkeypatch.chdir(tmp_path)  # no folder of the checkout is mistaken for a model
        yield hub


def stored(folder):
    """The files of tensors in a cache, with their sizes."""
    return {
        path.name: path.stat().st_size
        for path in folder.rglob("*.safetensors*")
        if path.suffix != ".lock"
    }


def assert_offline(monkeypatch, expected, config=NARROW, **options):
    """The next start needs no network."""
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        got, read = load(NAME, **options)
    assert got == config
    assert_same(read, expected)


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
        named |= {name: tensor, name.replace("encoder", "zdecoder"): torch.full((9,), torch.nan)}
    names = sorted(named, key=lambda name: name.replace("zdecoder", "encoder"))
    header, data = {}, b""
    for name in names:
        raw = named[name].contiguous().numpy().tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "F32", "shape": [*named[name].shape], "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    hub.commits[COMMITS[0]][WEIGHTS] = len(text).to_bytes(8, "little") + text + data
    assert_same(load(NAME)[1], make())


def test_shards(hub, tmp_path, monkeypatch):
    there = tmp_path / "there"
    write_shards(there, renamed(make()), NARROW, ".safetensors")
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


# --- servers that misbehave ---------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400, 403, 405, 416, 501])
def test_ranges_are_refused(hub, tmp_path, monkeypatch, status):
    hub.on_range = status
    assert_same(load(NAME)[1], make())
    whole = len(hub.commits[COMMITS[0]][WEIGHTS])
    assert list(stored(tmp_path / "hub").values()) == [whole]
    assert not stored(tmp_path / "assets")
    assert_offline(monkeypatch, make())


LIES = {
    "no Content-Range": lambda begin, end, size: (begin, end, 0, end - begin),
    "a longer file": lambda begin, end, size: (begin, end, size + 9, end - begin),
    "a shorter file": lambda begin, end, size: (begin, end, size - 9, end - begin),
    "a file that grows": lambda begin, end, size: (begin, end, size + begin, end - begin),
    "another begin": lambda begin, end, size: (begin + 4, end + 4, size, end - begin),
    "the whole file": lambda begin, end, size: (0, size, size, end - begin),
    "a longer answer": lambda begin, end, size: (begin, end, size, end - begin + 5),
    "a shorter answer": lambda begin, end, size: (begin, end, size, max(end - begin - 5, 0)),
    "an empty answer": lambda begin, end, size: (begin, end, size, 0),
    "a number too long": lambda begin, end, size: (begin, end, "9" * 5000, end - begin),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_about_lengths(hub, monkeypatch, lie):
    """The right weights or an error, and nothing that a later start takes for the weights."""
    hub.claim = LIES[lie]
    with contextlib.suppress(CheckpointError):
        assert_same(load(NAME)[1], make())
    hub.claim = lambda begin, end, size: (begin, end, size, end - begin)
    assert_same(load(NAME)[1], make())
    assert_offline(monkeypatch, make())


def test_more_bytes_than_asked_for(hub):
    """The answer is as long as it says, but longer than its range."""

    class Longer(bytes):
        def __getitem__(self, key):
            return bytes(self)[key] + b"more" if key.start else bytes(self)[key]

    hub.commits[COMMITS[0]][WEIGHTS] = Longer(hub.commits[COMMITS[0]][WEIGHTS])
    hub.claim = lambda begin, end, size: (begin, end, size, end - begin + 4 * (begin > 0))
    assert_same(load(NAME)[1], make())


def test_lost_connections(hub):
    """The rest is asked for, and no byte twice."""
    load(NAME)
    whole, hub.sent = hub.sent - len(hub.commits[COMMITS[0]]["config.json"]), 0
    hub.revisions["main"] = COMMITS[1]
    hub.commits[COMMITS[1]] = hub.commits[COMMITS[0]]
    hub.cuts = [100, 0, 0, 0, 0, 0, 1000, 0, 2000]
    assert_same(load(NAME, revision=COMMITS[1])[1], make())
    assert not hub.cuts
    assert hub.sent == whole  # huggingface_hub knows a config.json by its ETag


def test_next_start_resumes(hub, tmp_path, monkeypatch):
    needed = n_bytes(make())
    with monkeypatch.context() as patch:
        patch.setattr(ranges, "RETRIES", 0)
        hub.cuts = [9999, needed // 2, 0]
        message = refuses(NAME, f"{NAME}: RemoteProtocolError: ")
        assert hub.cuts == []
    assert set(stored(tmp_path / "assets")) == {f"{COMMITS[0]}-{WEIGHTS}.incomplete"}
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert refuses(NAME, "is not in the local Hugging Face cache") != message
    before, hub.sent = hub.sent, 0
    assert_same(load(NAME)[1], make())
    assert hub.sent < needed // 2 + 9999
    assert before > needed // 2
    assert set(stored(tmp_path / "assets")) == {WEIGHTS}


@pytest.mark.parametrize("damage", ["empty", "other", "longer"])
def test_unusable_rest_of_an_earlier_start(hub, tmp_path, damage):
    load(NAME)
    (path,) = (tmp_path / "assets").rglob(WEIGHTS)
    data = path.read_bytes()
    path.unlink()
    rest = path.parents[2] / "blobs" / f"{COMMITS[0]}-{WEIGHTS}.incomplete"
    rest.write_bytes({"empty": b"", "other": b"x" * 99999, "longer": data + b"x"}[damage])
    assert_same(load(NAME)[1], make())
    assert path.read_bytes() == data


def test_branch_moves_while_the_download_is_interrupted(hub, monkeypatch):
    other = {name: tensor + 1 for name, tensor in make().items()}
    hub.commits[COMMITS[1]] = hub.commits[COMMITS[0]] | {
        WEIGHTS: safetensors.torch.save(renamed(other))
    }
    hub.cuts = [9999, 5000, *[0] * 9]
    refuses(NAME, "RemoteProtocolError")
    hub.cuts, hub.revisions["main"] = [], COMMITS[1]
    assert_same(load(NAME)[1], other)
    assert_offline(monkeypatch, other)


def test_redirect_to_another_server(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serve(NAME, hub.commits[COMMITS[0]]) as cdn:
        cdn.url = cdn.url.replace("127.0.0.1", "localhost")
        hub.cdn = cdn
        assert_same(load(NAME)[1], make())
        assert [name for _, name, _ in cdn.asked] == [WEIGHTS] * 3
        assert set(cdn.tokens) == {None}
    assert set(hub.tokens) == {"Bearer hf_secret"}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_temporary_errors(hub, status):
    hub.statuses = [status, status]
    assert_same(load(NAME)[1], make())
    assert not hub.statuses
    assert n_bytes(make()) < hub.sent < 2 * n_bytes(make())  # not the whole file


def test_lasting_error(hub):
    hub.statuses = [503] * 99
    refuses(NAME, f"{NAME}: HfHubHTTPError: Server error '503")


def test_no_such_repository_or_file(hub):
    refuses("someone/else", "someone/else: RepositoryNotFoundError: 401 Client Error")
    hub.commits[COMMITS[0]] = {"README.md": b"hello"}
    refuses(NAME, f"{NAME} has no weights; looked for model.safetensors, ")


def test_answer_that_never_comes(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.2)
    hub.stall = 0
    refuses(NAME, "the Hub cannot be reached")


def test_answer_that_stops(hub, monkeypatch):
    """Asked again after HF_HUB_DOWNLOAD_TIMEOUT, here for less each time until it fits."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.stall = n_bytes(make()) // 2
    assert_same(load(NAME)[1], make())


def test_host_whose_name_takes_long(hub, monkeypatch):
    """That the Hub cannot be reached is known before the resolver gives up."""
    monkeypatch.setattr(ranges, "CONNECT", 0.2)
    resolved = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: resolved.wait(60) and [])
    try:
        refuses(NAME, "the Hub cannot be reached")
    finally:
        resolved.set()


def test_slow_answers_are_waited_for(hub, monkeypatch):
    """Once there is a connection, the limit is that of huggingface_hub."""
    monkeypatch.setattr(ranges, "CONNECT", 0.2)
    hub.stall = 0
    timer = threading.Timer(0.6, hub.released.set)
    timer.start()
    assert_same(load(NAME)[1], make())
    timer.join()


def test_hostile_commit(hub):
    """The commit becomes the name of a folder."""
    hub.revisions["main"] = "../../../../outside"
    hub.commits["../../../../outside"] = hub.commits[COMMITS[0]]
    assert ranges.connect(NAME, "main") is None


@pytest.mark.parametrize("start", [(1 << 62).to_bytes(8, "little"), b"\0" * 8, b"abc", b""])
def test_hostile_header(hub, start):
    hub.commits[COMMITS[0]][WEIGHTS] = start + (b"x" * 9999 if len(start) == 8 else b"")
    refuses(NAME, "damaged" if start else "is empty")
    assert hub.sent < 9999


# --- the cache ----------------------------------------------------------------------------------


def test_whole_file_comes_first(hub, tmp_path):
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
        return ranges.fetch(NAME, WEIGHTS, None, COMMITS[0], tmp_path / "assets", list_of_encoder)

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
