"""Names on the Hub where the server or the network misbehaves: the right weights, or one line."""

import logging
import socket
import threading

import pytest
import safetensors.torch

from melfront.encoder.checkpoint import load, ranges
from tests.encoder.checkpoint.checkpoints import assert_same, make, refuses, renamed
from tests.encoder.checkpoint.stand_in import (
    COMMITS,
    NAME,
    WEIGHTS,
    assert_offline,
    connected,
    n_bytes,
    serve,
    stored,
)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with connected(tmp_path, monkeypatch) as hub:
        yield hub


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
    "a file that grows": lambda begin, end, size: (begin, end, size + (begin > 8), end - begin),
    "another begin": lambda begin, end, size: (begin + 4, end + 4, size, end - begin),
    "the whole file": lambda begin, end, size: (0, size, size, end - begin),
    "a longer answer": lambda begin, end, size: (begin, end, size, end - begin + 5),
    "a shorter answer": lambda begin, end, size: (begin, end, size, (end - begin + 1) // 2),
    "an empty answer": lambda begin, end, size: (begin, end, size, 0),
    "a number too long": lambda begin, end, size: (begin, end, "9" * 5000, end - begin),
}


WRONG = ("a longer file", "a shorter file", "a number too long")  # its header says otherwise
SHORT = ("a longer answer", "a shorter answer")  # an end is missing, and asked for


@pytest.mark.parametrize("lie", LIES)
def test_lies_about_lengths(hub, tmp_path, monkeypatch, lie):
    """The right weights or an error, and nothing that a later start takes for the weights."""
    honest, hub.claim = hub.claim, LIES[lie]
    if lie in WRONG:
        refuses(NAME, NAME)
    else:
        assert_same(load(NAME)[1], make())
        kept = {folder for folder in ("hub", "assets") if stored(tmp_path / folder)}
        assert kept == ({"assets"} if lie in SHORT else {"hub"})
    hub.claim = honest
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


def test_compressed_ranges(hub, tmp_path):
    """They are ranges of something else."""
    hub.headers = {"Content-Encoding": "gzip"}
    assert_same(load(NAME)[1], make())
    assert stored(tmp_path / "hub")


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
    rest.write_bytes({"empty": b"", "other": b"x" * 20_000, "longer": data + b"x"}[damage])
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


def test_branch_moves_between_two_files(hub):
    """The config is that of the weights."""
    hub.commits[COMMITS[1]] = {"config.json": b"{}"}

    def move(begin, end, size):
        hub.revisions["main"] = COMMITS[1]
        return begin, end, size, end - begin

    hub.claim = move
    assert_same(load(NAME)[1], make())


def test_repository_with_a_new_name(hub):
    hub.moved["someone/old"] = NAME
    assert_same(load("someone/old")[1], make())
    assert hub.sent < 2 * n_bytes(make())


def test_redirect_to_another_server(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serve(hub.commits[COMMITS[0]]) as cdn:
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


def test_lasting_error(hub, monkeypatch):
    """Ten lines of warnings would hide the one that says what is wrong."""
    handler, logged = logging.Handler(), []
    handler.emit = logged.append
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "handlers", [handler])
    hub.statuses = [503] * 99
    refuses(NAME, f"{NAME}: HfHubHTTPError: Server error '503")
    hub.down = 500
    refuses(NAME, f"{NAME}: HfHubHTTPError: Server error '500")
    assert not logged
    logging.getLogger("huggingface_hub").warning("logging works again")
    assert logged


def test_no_such_repository_or_file(hub):
    refuses("someone/else", "someone/else: RepositoryNotFoundError: 401 Client Error")
    hub.commits[COMMITS[0]] = {"README.md": b"hello"}
    refuses(NAME, f"{NAME} has no weights; looked for model.safetensors, ")


def test_answer_that_never_comes(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.2)
    hub.stall = 0
    refuses(NAME, "the Hub cannot be reached")


def test_answer_that_stops(hub, monkeypatch):
    """The rest is asked for after HF_HUB_DOWNLOAD_TIMEOUT."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 1)
    hub.stall = n_bytes(make()) // 2
    assert_same(load(NAME)[1], make())


def test_host_whose_name_takes_long(hub, monkeypatch):
    """That the Hub cannot be reached is known before the resolver gives up."""
    monkeypatch.setattr(ranges, "CONNECT", 0.2)
    told, gave_up = threading.Event(), threading.Event()

    def getaddrinfo(*_, **__):
        if not told.wait(5):
            gave_up.set()
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    refuses(NAME, "the Hub cannot be reached")
    assert not gave_up.is_set()
    told.set()


def test_slow_answers_are_waited_for(hub, monkeypatch):
    """Once there is a connection, the limit is that of huggingface_hub."""
    monkeypatch.setattr(ranges, "CONNECT", 1)
    hub.stall = 0
    timer = threading.Timer(2, hub.released.set)
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
