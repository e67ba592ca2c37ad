"""A stand-in for the Hugging Face Hub on this machine, which can also misbehave.

It answers HEAD and GET of /{repository}/resolve/{revision}/{file} with the headers that
huggingface_hub reads, and counts the bytes of files that it sends.
"""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import safetensors.torch
import torch

from melfront.encoder.checkpoint import load
from tests.encoder.checkpoint.checkpoints import NARROW, assert_same, make, renamed

NAME = "someone/whisper-small-scale"
COMMITS = "a" * 40, "b" * 40
WEIGHTS = "model.safetensors"


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


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.revisions = {"main": COMMITS[0]}
        self.moved = {}  # old name of the repository -> new name
        self.commits = {COMMITS[0]: files}
        self.asked = []  # (method, file, its Range)
        self.tokens = []
        self.sent = 0
        self.down = None  # the status of every answer
        # How it misbehaves with files of tensors
        self.statuses = []  # the next answers, in place of what was asked for
        self.on_range = 206  # or 200, which ignores the range, or an error
        self.cuts = []  # after how many bytes it closes the next connections
        self.claim = lambda begin, end, size: (begin, end, size, end - begin)  # the last: length
        self.headers = {}  # added to the answers with a range
        self.stall = None  # after how many bytes it sends no more until `released`; 0: of any file
        self.released = threading.Event()
        self.cdn = None  # the Hub to which it redirects for tensors


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or else each answer waits for an acknowledgement

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, asked = self.server, self.headers.get("Range")
        place = re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", self.path)
        if not place:  # something else that huggingface_hub asks for
            return self.answer(404)
        repository, revision, name = place.groups()
        hub.asked.append((self.command, name, asked))
        if self.command == "GET":
            hub.tokens.append(self.headers.get("Authorization"))
        revision = revision.replace("%2F", "/")
        commit = hub.revisions.get(revision, revision)
        if hub.stall == 0:
            hub.released.wait(60)
        if hub.down:
            self.answer(hub.down)
        elif hub.statuses and name.endswith(".safetensors"):
            self.answer(hub.statuses.pop(0))
        elif repository in hub.moved:
            path = self.path.replace(repository, hub.moved[repository])
            self.answer(307, {"Location": path})
        elif repository != NAME:
            self.answer(401, {"X-Error-Code": "RepoNotFound"})
        elif commit not in hub.commits:
            self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        elif name not in hub.commits[commit]:
            self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        else:
            self.send(hub.commits[commit][name], commit, asked, name.endswith(".safetensors"))
        return None

    def send(self, data, commit, asked, is_tensors):
        hub = self.server
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hash(data) % 2**64:x}"'}
        if hub.cdn and is_tensors:
            headers |= {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": len(data)}
            self.answer(302, headers | {"Location": hub.cdn.url + self.path})
        elif not asked or hub.on_range == 200 or not is_tensors:
            self.answer(200, headers, data, len(data), is_tensors)
        elif hub.on_range != 206:
            self.answer(hub.on_range)
        else:
            begin, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", asked).groups())
            end = min(last + 1, len(data))
            body = data[begin:end]
            begin, end, size, length = hub.claim(begin, end, len(data))
            if size:
                headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
            if "gzip" in self.headers.get("Accept-Encoding", ""):  # then it may be compressed
                headers["Content-Encoding"] = "gzip"
            self.answer(206, headers | hub.headers, body, length, is_tensors)

    def answer(self, status, headers=None, body=b"", length=0, is_tensors=False):
        hub = self.server
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": length}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = body[:length]
        stalls = is_tensors and hub.stall and len(sent) > hub.stall
        if is_tensors and hub.cuts and len(sent) > 8:
            sent = sent[: hub.cuts.pop(0)]
        elif stalls:
            sent = sent[: hub.stall]
        self.wfile.write(sent)
        hub.sent += len(sent)
        if stalls:
            hub.released.wait(60)
        # Not after a whole answer: the client may be asking for more on this connection.
        self.close_connection = len(sent) < length


@contextmanager
def serve(files):
    """A Hub that runs until the end of the block, or until its `shutdown`."""
    with Hub(files) as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            hub.released.set()
            hub.shutdown()
            thread.join()


@contextmanager
def connected(tmp_path, monkeypatch):
    """A Hub with one repository in place of the real one, and empty caches."""
    with serve(files()) as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {  # huggingface_hub reads the environment only once
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
    paths = (path for path in folder.rglob("*.safetensors*") if path.suffix != ".lock")
    return {path.name: path.stat().st_size for path in paths}


def assert_offline(monkeypatch, expected, config=NARROW, **options):
    """The next start needs no network."""
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        got, read = load(NAME, **options)
    assert got == config
    assert_same(read, expected)
