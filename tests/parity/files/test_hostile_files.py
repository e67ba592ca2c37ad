"""Malicious and corrupted files are refused at once, in one line."""

import io
import random

import numpy as np
import pytest
import torch
from safetensors.numpy import save as safetensors
from safetensors.torch import save_file

from melfront import parity
from melfront.parity.files.tensors import read
from melfront.parity.stages import ParityError
from tests.parity.commands import FEATURES, assert_one_line


def npy(header, shape=(80, 37)):
    """An .npy file of zeros with this header, which NumPy parses as a Python literal."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + bytes(4 * 80 * 37)


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (80, 37)}"


@pytest.mark.parametrize(
    "header",
    [
        GOOD.replace(")", ""), GOOD.replace("}", "["), "(" * 5000, "-" * 5000 + "1", "'", "\0", "1",
        GOOD.replace("'<f4'", "'\u0131'"), GOOD.replace("'<f4'", "[('a', '<f4', (10**9,))]"),
        GOOD.replace("80", "8" * 4000),
        GOOD.replace("80", str(10**15)), GOOD.replace("80", str(2**62)), GOOD.replace("80", "True"),
    ],
    ids=lambda header: header[:60],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_headers_that_make_numpy_fail(run, tmp_path, header, suffix):
    path = tmp_path / f"features.{suffix}"
    path.write_bytes(npy(header))
    if suffix == "npz":
        import zipfile

        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("features.npy", npy(header))
    assert_one_line(run("compare", path), path)


def test_valid_header_is_read(tmp_path):
    (tmp_path / "features.npy").write_bytes(npy(GOOD))
    assert read(tmp_path / "features.npy").tensors["features"].values.shape == (80, 37)


@pytest.mark.parametrize("number", ["1000", "9999999", "9" * 5000])
def test_huge_block_numbers(run, tmp_path, number):
    """Without the model, only the dump determines the number of blocks."""
    name = f"block.{number}.attn.q"
    for file in ("mine", "truth"):
        np.savez(tmp_path / f"{file}.npz", **{name: np.zeros((11, 26), "f4")})
    result = run("compare", tmp_path / "mine.npz", tmp_path / "truth.npz")
    assert_one_line(result, f"block.{number[:40]}", "expected a block's number below 1000")
    np.savez(tmp_path / "mine.npz", **{f"hidden_states.{number}": np.zeros((11, 26), "f4")})
    assert_one_line(run("compare", tmp_path / "mine.npz"), "hidden_states.9"[: -len("9")])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.bool])
def test_dtypes_missing_in_numpy(run, tmp_path, dtype):
    save_file({"features": torch.zeros(80, 37).to(dtype)}, tmp_path / "a.safetensors")
    name = str(dtype).removeprefix("torch.")
    assert_one_line(run("compare", tmp_path / "a.safetensors"), f"dtype {name}; expected float16")


@pytest.mark.parametrize("key", ["clip", "model", "convention", "n_mels", "pad_to"])
def test_metadata_with_control_characters(run, tmp_path, key):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(safetensors({"features": FEATURES}, {key: "\x1b[31mred\n" + "x" * 5000}))
    result = run("compare", path)
    assert_one_line(result, key if key != "convention" else "red")
    assert result[2].rstrip("\n").isprintable()
    assert len(result[2]) < 1100


def test_deeply_nested_metadata(run, tmp_path):
    np.savez(tmp_path / "mine.npz", features=FEATURES, __metadata__=np.array("[" * 50_000))
    assert_one_line(run("compare", tmp_path / "mine.npz"), "metadata", "not whole JSON")


@pytest.mark.parametrize("shape", ["1000000000 1000000000", "80 38", "-1", "1" * 5000, ""])
def test_invalid_shape_of_a_sample(run, tmp_path, shape):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(safetensors({"features": FEATURES}, {"sampled.features": shape}))
    assert_one_line(run("compare", path), "the metadata 'sampled")


def test_number_of_bins_is_reported_only_if_known(run, tmp_path):
    """An encoder stage alone, without a model, does not determine the number of mel bins."""
    np.savez(tmp_path / "a.npz", ln_post=np.ones((11, 26), "f4"))
    status, out, _ = run("compare", tmp_path / "a.npz", tmp_path / "a.npz")
    assert status == 0
    assert " bins, " not in out
    np.savez(tmp_path / "b.npz", features=FEATURES)
    assert ", 80 bins, " in run("compare", tmp_path / "b.npz", tmp_path / "b.npz")[1]
    np.savez(tmp_path / "c.npz", ln_post=np.ones((11, 26), "f4"), metadata='{"n_mels": "77"}')
    assert ", 77 bins, " in run("compare", tmp_path / "c.npz", tmp_path / "c.npz")[1]


# --- random damage --------------------------------------------------------------------------------


def spoil(data, random):
    data = bytearray(data)
    for _ in range(random.choice([1, 2, 9])):
        place = random.randrange(len(data)) if random.random() < 0.3 else random.randrange(300)
        data[place] = random.choice(
            b"[](){}:,'\"0" + bytes([data[place] ^ 1 << random.randrange(8)])
        )
    return bytes(data[: random.choice([len(data), len(data), random.randrange(len(data))])])


def in_numpy(save, **options):
    file = io.BytesIO()
    save(file, FEATURES) if save is np.save else save(file, features=FEATURES, mel=FEATURES)
    return file.getvalue()


WHOLE = {
    "npy": in_numpy(np.save),
    "npz": in_numpy(np.savez),
    "compressed.npz": in_numpy(np.savez_compressed),
    "safetensors": safetensors({"features": FEATURES}, {"floors": '{"features": 1e-6}'}),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("suffix", WHOLE)
def test_every_mutation_is_read_or_refused_in_one_line(tmp_path, suffix, seed):
    draw, refused = random.Random(f"{suffix} {seed}"), []
    path = tmp_path / ("features.npy" if suffix == "npy" else f"mine.{suffix}")
    for _ in range(50):
        path.write_bytes(spoil(WHOLE[suffix], draw))
        try:
            read(path)
        except ParityError as error:
            refused.append(str(error))
    assert refused
    assert all(message.isprintable() and len(message) <= 1000 for message in refused)


def test_sampled_dump_is_accepted(tmp_path):
    """`compare` expects exactly the positions that `dump --sample` writes."""
    from melfront.parity.files.dump import dump

    dump(tmp_path / "a.npz", np.float32(FEATURES[0]).repeat(200) / 10, n_mels=80, pad_to=None,
         wanted=["features"], sample=True)  # fmt: skip
    assert parity.compare(tmp_path / "a.npz", tmp_path / "a.npz").ok
