"""Hostile checkpoints, each with the error it gets: in 2 s, 200 MB and 1,000 characters."""

import json
import struct
import zipfile

import numpy as np
import pytest
import torch

from tests.encoder.checkpoint.checkpoints import NARROW, make, renamed, write, write_shards
from tests.encoder.checkpoint.hostile.limits import (
    CONV,
    legacy,
    outcome,
    safetensors,
    split,
    tensor,
    with_text,
    zipped,
)

CONTROL = "\x1b[31m\n\x07\u202e"


def header(change):
    """A file whose header, as a dictionary, is changed."""

    def build(folder):
        path = safetensors(folder)
        about, data = split(path)
        change(about)
        return with_text(path, json.dumps(about), data)

    return build


def header_text(more, times=1):
    """A file whose header has more in its JSON."""

    def build(folder):
        path = safetensors(folder)
        about, data = split(path)
        return with_text(path, f"{json.dumps(about)[:-1]}, {more * times}}}", data)

    return build


def config(change):
    def build(folder):
        safetensors(folder)
        (folder / "config.json").write_text(json.dumps(NARROW.to_hf() | change))
        return folder

    return build


def config_text(more):
    def build(folder):
        safetensors(folder)
        (folder / "config.json").write_text(json.dumps(NARROW.to_hf())[:-1] + more + "}")
        return folder

    return build


def index(change):
    def build(folder):
        write_shards(folder, renamed(make()), NARROW, ".safetensors")
        path = folder / "model.safetensors.index.json"
        about = json.loads(path.read_text())
        change(about["weight_map"])
        path.write_text(json.dumps(about, separators=(",", ":")))
        return folder

    return build


def pickled(change, zipped=True):
    """A PyTorch file of a small encoder's tensors and these."""

    def build(folder):
        content = change() if callable(change) else renamed(make()) | change
        path = write(folder / "a.pt", {}, NARROW)
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        return path

    return build


def steps(code):
    return lambda folder: zipped(folder, b"\x80\x02" + code + b".")


def old(code, **options):
    return lambda folder: legacy(folder, b"\x80\x02" + code + b".", **options)


def big_header(folder):
    path = folder / "model.safetensors"
    with path.open("wb") as file:
        file.write((1 << 30).to_bytes(8, "little") + b"{")
        file.truncate((1 << 30) + 100)
    return path


def bomb(folder):
    """A pickle of 64 MB in a zip of 64 kB."""
    return zipped(folder, (b"N0" * (1 << 19) for _ in range(64)), b"", zipfile.ZIP_DEFLATED)


def members(folder):
    path = folder / "weights.npz"
    with zipfile.ZipFile(path, "w") as file:
        for i in range(20_000):
            file.writestr(str(i), b"")
    return path


def shared(folder):
    """Each layer has its own numbers, by its names, and all are the same bytes."""
    path, bytes_of_all = folder / "pytorch_model.bin", torch.zeros(26 * 26 * 3)
    tensors = {
        name: bytes_of_all[: x.numel()].view(x.shape) if "layers" in name else x
        for name, x in renamed(make()).items()
    }
    return write(path, tensors, NARROW)


def npz(**change):
    def build(folder):
        (folder / "config.json").write_text(json.dumps(NARROW.to_hf()))
        arrays = {name: x.numpy() for name, x in renamed(make()).items()}
        np.savez(folder / "weights.npz", **(arrays | {CONV: change["array"]}))
        return folder

    return build


def ggml(*words):
    def build(folder):
        path = folder / "ggml-model.bin"
        sizes = 101, 11, 26, 2, 3, 19, 26, 2, 3, 7, 1
        path.write_bytes(struct.pack(f"<{12 + len(words)}i", 0x67676D6C, *sizes, *words))
        return path

    return build


def values(value):
    def build(folder):
        weights = make()
        weights["ln_post.bias"][-1] = value
        return write(folder / "a.pt", renamed(weights), NARROW)

    return build


EMPTY = '{"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}'
HASHED = (
    b"}(K\x01\x85" + b"".join(bytes([113, i, 104, i, 104, i, 134]) for i in range(60)) + b"K\1u"
)
TABLE = {
    # safetensors
    "header of 1 GB": (big_header, "it has more than 4194304 bytes of JSON"),
    "600,000 names": (header_text('"x": 1, ' * 600_000 + '"y": 1'), "more than 4194304 bytes"),
    "500,000 lists": (header_text('"x": [' + "[]," * 500_000 + "0]"), "list indices must be"),
    "a name twice": (header_text(f'"{CONV}": {EMPTY}'), f"it has '{CONV}' twice"),
    "overlapping bytes": (header(lambda h: h[CONV].update(data_offsets=[0, 104])), "are not the "),
    "uncovered bytes": (header(lambda h: h.pop("proj_out.weight")), "its tensors are not the "),
    "bytes at the end": (
        lambda folder: with_text(safetensors(folder), "{}", bytes(4)),
        "its tensors are not the 4 bytes after the header",
    ),
    "a type of another size": (
        header(lambda h: h["proj_out.weight"].update(dtype="I8")), "a I8 of shape [2, 3] in bytes"
    ),
    "a type of 50,000 signs": (header(lambda h: h[CONV].update(dtype=CONTROL * 9999)), "a \\x1b"),
    "numbers of 4,000 digits": (header(lambda h: h[CONV].update(shape=[10**4000])), "a F32 of sh"),
    "400,000 axes": (
        header(lambda h: h[CONV].update(shape=[9_999_999] * 400_000)), "a shape of 400000 axes"
    ),
    "metadata that are no text": (
        header(lambda h: h.update(__metadata__={"a": [1]})), "its metadata are not text"
    ),
    "metadata that are a list": (header(lambda h: h.update(__metadata__=[])), "no attribute"),
    "a name of 50,000 characters": (
        header(lambda h: h.update({CONTROL * 9999: h.pop("proj_out.weight")}) or h.pop(CONV)),
        "its tensors are not the ",
    ),
    # config.json and the index
    "100,000 layers": (config({"encoder_layers": 100_000}), "fewer than its 100000 layers"),
    "a wide model": (config({"d_model": 1 << 30}), "of a wrong shape"),
    "a long context": (config({"max_source_positions": 1 << 30}), "expected (1073741824, 26)"),
    "50,000 characters": (config({"model_type": CONTROL * 9999}), "model_type is '\\x1b[31m"),
    "a list of 99,999": (config({"activation_function": ["x"] * 99_999}), "expected 'gelu'"),
    "a key twice": (config_text(', "d_model": 26'), "it has 'd_model' twice"),
    "a key twice, inside": (config_text(', "x": [{"a": 1, "a": 1}]'), "it has 'a' twice"),
    "100,000 tensors": (
        index(lambda where: where.update(dict.fromkeys(map(str, range(100_000)), "x"))), None
    ),
    "150,000 prefixes": (
        index(lambda w: w.clear() or w.update({f"{i}.conv1.bias": "x" for i in range(150_000)})),
        "no tensor of a Whisper encoder",
    ),
    "a shard of 5,000 characters": (index(lambda where: where.update({CONV: "x" * 5000})), "too l"),
    "a shard that is its index": (
        index(lambda where: where.update({CONV: "model.safetensors.index.json"})), "give its folder"
    ),
    # pickles
    "64 MB in 64 kB": (bomb, "it is compressed, which PyTorch's files are not"),
    "4,000,000 steps": (steps(b"N0" * 2_000_000), "a pickle of more than 500000 steps"),
    "5,000,000 marks": (steps(b"(" * 5_000_000), "a pickle of more than 500000 steps"),
    "9 MB": (steps(b"N0" * 4_500_000), "a data.pkl of 9000003 bytes"),
    "a key of 2^60 parts": (steps(HASHED), "no tensor of a Whisper encoder; it has no tensors"),
    "memory for 2^31": (steps(b"}r\xff\xff\xff\x7f"), "it has no tensors"),
    "text of 2 GB": (steps(b"}X\xff\xff\xff\x7fabc"), "not a PyTorch file (expected 2147483647"),
    "bytes of 1 TB": (steps(b"\x8e" + (1 << 40).to_bytes(8, "little")), "not a PyTorch file (exp"),
    "a bytearray of 8 GB": (steps(b"\x96" + (1 << 33).to_bytes(8, "little")), "not a PyTorch file"),
    "a call for 256 GB": (
        steps(b"c__builtin__\nbytearray\n\x8a\5\0\0\0\0\x40\x85R"), "holds a __builtin__.bytearray,"
    ),
    "a storage of 1 TB": (
        steps(b"ctorch\nFloatStorage\n\x8a\5\0\0\0\0\x40\x85R"), "holds a torch.FloatStorage"
    ),
    "code": (steps(b"cos\nsystem\nX\2\0\0\0id\x85R"), "holds a os.system, not only tensors"),
    "code in the old format": (old(b"cos\nsystem\nX\2\0\0\0id\x85R"), "holds a os.system,"),
    "code of another step": (steps(b"(X\2\0\0\0idios\nsystem\n"), "a pickle with INST"),
    "a long name of code": (steps(b"c" + b"\x1ba" * 500_000 + b"\nb\n"), "a\\x1b ... a\\x1b"),
    "itself": (steps(b"}q\0X\1\0\0\0ah\0s"), "it has no tensors"),
    "nothing to take": (steps(b"0"), "a pickle that takes more than it has"),
    "a storage that is a number": (steps(b"K\5Q"), "cannot unpack non-iterable int"),
    "a storage that is not there": (
        lambda folder: zipped(folder, tensor(key="../x")), "it has no storage of 26"
    ),
    "a storage of 2^50": (lambda folder: zipped(folder, tensor(1 << 50)), "it has no storage of "),
    "a storage of less than none": (lambda folder: zipped(folder, tensor(-5)), "a strange shape"),
    "a shape of 2^62": (
        lambda folder: zipped(folder, tensor(shape=(1 << 62, 1 << 62), strides=(0, 0))),
        "it lists 1 tensors, fewer than its 3 layers",
    ),
    "an offset": (lambda folder: zipped(folder, tensor(offset=1)), "a tensor beyond its storage"),
    "strides backwards": (lambda folder: zipped(folder, tensor(strides=(-1,))), "a strange shape"),
    "100,000 axes": (
        lambda folder: zipped(folder, tensor(shape=(1,) * 100_000, strides=(1,) * 100_000)),
        "a tensor of a strange shape",
    ),
    "a storage longer than the file": (
        lambda folder: legacy(folder, tensor(), numel=1 << 50), "a storage of 1125899906842624 "
    ),
    "a storage of a negative length": (
        lambda folder: legacy(folder, tensor(), numel=-1), "a storage of -1 elements"
    ),
    "sparse": (pickled({CONV: torch.zeros(26).to_sparse()}), "._rebuild_sparse_tensor"),
    "nested": (
        pickled({CONV: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])}),
        "._rebuild_nested_tensor",
    ),
    "meta": (
        pickled({CONV: torch.empty(1 << 40, device="meta")}), "._rebuild_meta_tensor_no_storage"
    ),
    "nested in the old format": (
        pickled({CONV: torch.nested.nested_tensor([torch.zeros(2)])}, zipped=False), "a.pt "
    ),
    "names that are no strings": (
        pickled(lambda: {5: torch.zeros(2), ("a", 1): torch.zeros(1)}), "it has no tensors"
    ),
    "a list of states": (pickled(lambda: {"model_state_dict": [1]}), "holds a list, expected"),
    "states that are a tensor": (
        pickled(lambda: {"state_dict": torch.zeros(3)}), "holds a Tensor, expected a state_"
    ),
    "a tensor of 5,000 characters": (
        pickled({"model.encoder." + CONTROL * 999: torch.zeros(1)}), "1 left over: "
    ),
    "the same bytes for all layers": (shared, " of the bytes of another: model.encoder.layers."),
    "NaN": (values(torch.nan), "has values that are NaN or infinite in torch.float32"),
    "infinity": (values(-torch.inf), "has values that are NaN or infinite in torch.float32"),
    # npz and ggml
    "20,000 members": (members, "0 is not an array of numbers"),
    "objects": (npz(array=np.array([{}], object)), f"{CONV}.npy is not an array"),
    "another order of bytes": (npz(array=np.zeros(26, ">f4")), f"{CONV}.npy is not an ar"),
    "filters of 2^60": (ggml(1 << 30, 1 << 30), "cut short or damaged near byte"),
    "filters of less than none": (ggml(-1, 1), "cut short or damaged near byte"),
    "1,000,000,000 tokens": (ggml(0, 0, 10**9), "cut short or damaged near byte"),
    "1,000,000 tokens": (ggml(0, 0, 10**6, *[0] * 10**6), "cut short or damaged near byte"),
    "a tensor's name of 1 GB": (ggml(0, 0, 0, 1, 1 << 30, 0, 26), "cut short or damaged near byte"),
    # names
    "nobody": (lambda _: "~nobody", "'~nobody' is neither a file or folder nor the name of a"),
    "nobody's folder": (lambda _: "~nobody/x", "'~nobody/x' is neither a file or folder nor"),
    "5,000 characters": (lambda _: "x" * 5000, "cannot be read: File name too long"),
    "control characters": (lambda _: f"{CONTROL}/x", "\\x1b[31m"),
    "a character that is none": (lambda _: "\ud800/x", "'\\ud800/x' is neither a file or folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_ends_in_one_short_line(tmp_path, name):
    build, expected = TABLE[name]
    message = outcome(build(tmp_path))
    if expected is None:
        assert message is None
    else:
        assert message
        assert expected in message, message
