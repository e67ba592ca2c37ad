"""What a hostile checkpoint may cost, and how the files of one are put together."""

import json
import os
import pickle
import struct
import sys
import time
import zipfile
from pathlib import Path

from melfront.encoder.checkpoint import CheckpointError, load
from tests.encoder.checkpoint.checkpoints import NARROW, make, renamed, write

SECONDS, BYTES, CHARACTERS = 2, 200 << 20, 1000
CONV = "model.encoder.conv1.bias"  # (26,)


def peak() -> int:
    """The largest memory of this process since the last `reset_peak`, in bytes; 0 if unknown."""
    if sys.platform != "linux":
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def reset_peak() -> None:
    if sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def outcome(path) -> str | None:
    """The error that `load` ends in, None if it loads. Asserts that it keeps the limits."""
    reset_peak()
    memory, start = peak(), time.process_time()
    try:
        load(path)
        message = None
    except CheckpointError as error:
        message = str(error)
    seconds, memory = time.process_time() - start, peak() - memory
    assert seconds <= SECONDS, (seconds, message)
    assert memory <= BYTES, (memory, message)
    assert len(message or "") <= CHARACTERS
    assert (message or "").isprintable(), message
    return message


def split(path):
    """The header of a safetensors file, and the bytes after it."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def with_text(path, text, data):
    """A safetensors file of a header's text and the bytes after it."""
    text = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def safetensors(folder):
    return write(folder / "model.safetensors", renamed(make()), NARROW)


def zipped(folder, steps, record=bytes(104), compression=zipfile.ZIP_STORED):
    """A PyTorch file of a pickle's steps, and one storage, "0"."""
    (folder / "config.json").write_text(json.dumps(NARROW.to_hf()))
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w", compression) as file:
        with file.open("a/data.pkl", "w", force_zip64=True) as member:
            for piece in [steps] if isinstance(steps, bytes) else steps:
                member.write(piece)
        file.writestr("a/data/0", record)
    return path


def legacy(folder, steps, record=bytes(104), numel=26):
    """The same as PyTorch before 1.6 wrote it."""
    (folder / "config.json").write_text(json.dumps(NARROW.to_hf()))
    path = folder / "pytorch_model.bin"
    about = 0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}
    start = b"".join(pickle.dumps(value, 2) for value in about)
    keys = pickle.dumps(["0"], 2) + struct.pack("<q", numel)
    path.write_bytes(start + steps + keys + record)
    return path


def pushed(value) -> bytes:
    """The steps of a pickle that push a value."""
    return pickle.dumps(value, 2)[2:-1]


def tensor(numel=26, offset=0, shape=(26,), strides=(1,), key="0", storage="FloatStorage"):
    """The steps of a pickle of {CONV: a tensor}."""
    about = pushed("storage") + f"ctorch\n{storage}\n".encode() + pushed(key) + pushed("cpu")
    where = b"(" + about + pushed(numel) + b"tQ"
    arguments = where + pushed(offset) + pushed(shape) + pushed(strides) + b"\x89N"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"
    return b"\x80\x02}" + pushed(CONV) + call + b"s."
