"""`melfront encoder`: its output and its files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import melfront
from melfront.encoder import WhisperEncoder, trace
from melfront.encoder.command import table
from tests.encoder.cli.commands import process, run, write
from tests.encoder.peers import TOY
from tests.signals import sample

TOY_SAMPLES = TOY.n_frames * melfront.HOP_LENGTH  # one window of the toy: 0.22 s


# Output


def test_without_arguments_in_an_empty_folder(tmp_path):
    pytest.importorskip("soundfile")
    done, seconds = process(tmp_path, "-m", "melfront.encoder")
    assert done.returncode == 0
    assert done.stderr == "", "progress although stderr is not a terminal"
    assert seconds < 20
    assert not list(tmp_path.iterdir())
    lines = done.stdout.splitlines()
    assert max(map(len, lines[2:])) <= 80
    assert "129600 samples, 810 frames; hidden states (1500, 384)" in lines[1]
    assert "nothing was written" in lines[-1]

    rows = [line.split() for line in lines[lines.index("") + 2 : -3]]
    front_end = ["padded", "frames", "windowed", "spectrum", "power"]
    front_end += ["mel", "log", "clamped", "features"]
    stem = ["conv1", "gelu1", "conv2", "gelu2", "positions"]
    blocks = [f"block.{i}.mlp_residual" for i in range(4)]
    assert [row[0] for row in rows] == [*front_end, *stem, *blocks, "ln_post"]
    table = {row[0]: " ".join(row[1:]) for row in rows}
    assert table["padded"].startswith("(480400,) 0.0625 ms ")
    assert table["frames"].startswith("(3000, 400) 10 ms, 0.0625 ms ")
    assert table["power"].startswith("(3000, 201) 10 ms, 40 Hz ")
    assert table["features"].startswith("(128, 3000) mel bin, 10 ms ")
    assert table["gelu1"].startswith("(384, 3000) channel, 10 ms ")
    assert table["gelu2"].startswith("(384, 1500) channel, 20 ms ")
    assert table["ln_post"].startswith("(1500, 384) 20 ms, channel ")
    # The last three cells are minimum, mean and maximum. -0.17 is the minimum of GELU.
    mel = melfront.log_mel(sample())
    expected = (mel.min(), mel.mean(), mel.max())
    assert np.allclose([float(x) for x in rows[8][-3:]], expected, rtol=0.01)
    assert rows[10][-3] == "-0.17"


def test_steps_of_the_table_match_the_front_end():
    ms = 1e3 / melfront.SAMPLE_RATE
    for text, hops in (table.FRAME, 1), (table.POSITION, 2):
        n = hops * melfront.HOP_LENGTH
        assert text == f"{n * ms:g} ms"
        assert f" = {n} samples = {text}" in table.LEGEND
    assert table.STEPS["padded"] == f"{ms:g} ms"
    assert table.STEPS["power"].endswith(f" {melfront.SAMPLE_RATE // melfront.N_FFT} Hz")


def test_table_matches_the_trace_of_the_first_window(toy, clip, capsys):
    assert run(clip, "--model", toy) == 0
    rows = {line.split(" ")[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    model = WhisperEncoder.from_formula(TOY)
    mel = melfront.log_mel(melfront.load_audio(clip), n_mels=7, pad_to=0.22, compiled=False)
    stages = trace(model, mel)
    for stage in ("conv1", "gelu2", "positions", "block.2.mlp_residual", "ln_post"):
        x, shown = stages[stage], [float(value) for value in rows[stage][-3:]]
        assert np.allclose(shown, [x.min(), x.mean(), x.max()], rtol=0.01, atol=1e-6), stage


def test_help_and_usage_errors_take_less_than_a_second(tmp_path, clip):
    done, seconds = process(tmp_path, "-m", "melfront.encoder", "--help")
    assert done.returncode == 0
    assert "melfront encoder sample --model" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert seconds < 1
    (tmp_path / "text.wav").write_text("no audio")
    refused = [
        ["--dtype", "int8"],
        ["nowhere.wav"],
        ["text.wav"],
        ["--model", "tinny"],
        ["-o", "out.txt"],
        ["-o", "nowhere/out.npz"],
        ["clip.wav", "-o", "out.npz", "--dtype", "bfloat16"],
        ["clip.wav", "clip.wav", "-o", "out.npz"],
        ["clip.wav", "clip.wav", "-o", "."],
    ]
    program = f"""if True:
        import sys, melfront.encoder.__main__
        from melfront import encoder
        for argv in {refused}:
            try:
                status = encoder.__main__.main(argv)
            except SystemExit as error:
                status = error.code
            assert status == 2, argv
        assert "torch" not in sys.modules
    """
    done, _ = process(tmp_path, "-c", program)
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    assert len(lines) == len(refused)
    assert all(line.startswith("melfront encoder: ") for line in lines)
    for line, words in zip(
        lines,
        [
            ["--dtype", "int8", "float32"],
            ["nowhere.wav", "no such file"],
            ["text.wav", "convert it"],
            ["--model tinny", "tiny"],
            ["out.txt", ".npz, .safetensors, or a folder"],
            ["nowhere/out.npz", "no such folder to write out.npz into; make it first"],
            ["bfloat16", ".safetensors"],
            ["2 clips", "folder"],
            ["clip", "rename"],
        ],
        strict=True,
    ):
        assert all(word in line for word in words), line


# Files


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_written_tensors(device, toy, clip, out, suffix, dtype):
    if (suffix, dtype) == (".npz", "bfloat16"):
        pytest.skip("NumPy has no bfloat16: test_refusals.py covers the error")
    file = out / f"states{suffix}"
    options = ["--model", toy, "-o", file, "--dtype", dtype, "--device", device]
    assert run(clip, *options) == 0
    assert list(out.iterdir()) == [file]
    tensors, about = read(file)

    model = WhisperEncoder.from_formula(TOY, dtype=getattr(torch, dtype), device=device)
    audio = melfront.load_audio(clip)
    mel, mask = melfront.log_mel(audio, n_mels=7, pad_to=0.22, return_mask=True, compiled=False)
    expected = model(mel, output_hidden_states=True)
    states = expected.hidden_states
    names = ["log_mel", "attention_mask", "last_hidden_state"]
    assert set(tensors) == {*names, *(f"hidden_states.{i}" for i in range(4))}
    assert tensors["log_mel"].equal(torch.from_numpy(mel))
    assert tensors["attention_mask"].equal(torch.from_numpy(mask))
    assert int(mask.sum()) == 21
    for i, state in enumerate(states):
        assert tensors[f"hidden_states.{i}"].equal(state[0].cpu()), i
    assert tensors["last_hidden_state"].equal(states[-1][0].cpu())
    assert {name: about[name] for name in ("clip", "model", "dtype", "device", "samples")} == {
        "clip": str(clip),
        "model": str(toy),
        "dtype": dtype,
        "device": device,
        "samples": "3251",
    }
    versions = (melfront.__version__, torch.__version__, np.__version__)
    assert (about["melfront"], about["torch"], about["numpy"]) == versions


def test_no_tensor_is_converted_implicitly(toy, clip, out, monkeypatch, capsys):
    """NumPy converts a tensor with `__array__`, which raises an error on a GPU."""

    def on_a_gpu(*_args):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    monkeypatch.setattr(torch.Tensor, "__array__", on_a_gpu)
    report = out / "report.html"
    assert run(clip, "--model", toy, "--report", report) == 0, capsys.readouterr().err


def read(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as opened:
            return load_file(file), opened.metadata()
    arrays = dict(np.load(file, allow_pickle=False))
    about = json.loads(str(arrays.pop("metadata")))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, about


def test_windows_of_a_longer_clip(toy, tmp_path, out, capsys):
    audio = sample()[50_000 : 50_000 + 2 * TOY_SAMPLES + 1009]
    file = out / "long.safetensors"
    assert run(write(tmp_path / "long.wav", audio), "--model", toy, "-o", file) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "hidden states (3, 11, 26)" in lines[1]
    tensors, _ = read(file)
    assert {name: tuple(x.shape) for name, x in tensors.items()} == {
        "log_mel": (3, 7, 22),
        "attention_mask": (3, 22),
        "last_hidden_state": (3, 11, 26),
        **{f"hidden_states.{i}": (3, 11, 26) for i in range(4)},
    }
    assert tensors["attention_mask"].sum(dim=1).tolist() == [22, 22, 7]
    model = WhisperEncoder.from_formula(TOY)
    for i, window in enumerate(melfront.chunks(audio, 0.22)):
        mel = melfront.log_mel(window, n_mels=7, pad_to=0.22, compiled=False)
        assert tensors["log_mel"][i].equal(torch.from_numpy(mel))
        states = model(mel, output_hidden_states=True).hidden_states
        for j, state in enumerate(states):
            assert tensors[f"hidden_states.{j}"][i].equal(state[0]), (i, j)
    # The table shows the first window.
    blocks = [line.split() for line in lines if line.startswith("block.")]
    assert [row[0] for row in blocks] == [f"block.{i}.mlp_residual" for i in range(3)]
    first = tensors["hidden_states.2"][0]  # output of the second block
    shown = [float(value) for value in blocks[1][-3:]]
    assert np.allclose(shown, [first.min(), first.mean(), first.max()], rtol=0.01)
    exactly = write(tmp_path / "exactly.wav", audio[:TOY_SAMPLES])
    assert run(exactly, "--model", toy, "-o", file) == 0
    assert read(file)[0]["last_hidden_state"].shape == (11, 26), "a full window is one window"


def test_several_clips(toy, clip, tmp_path, out, capsys):
    long = write(tmp_path / "long.v2.wav", sample()[: TOY_SAMPLES + 1])
    assert run(clip, long, "--model", toy, "-o", out) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "clip.safetensors",
        "long.v2.safetensors",
    ]
    for path, shape in (clip, (11, 26)), (long, (2, 11, 26)):
        tensors, about = read(out / f"{path.stem}.safetensors")
        assert tensors["last_hidden_state"].shape == shape
        assert about["clip"] == str(path)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5, "the model, and two lines for each clip"
    assert run(clip, "--model", toy, "-o", out) == 0, "one clip with a folder as output"
    assert run(clip, long, "--model", toy) == 0, "several clips without an output"
    assert "nothing was written" in capsys.readouterr().out


def test_trained_weights(tiny_en, jfk_stereo_path, out):
    """44.1 kHz stereo as input; the model decides the number of mel bins."""
    file = out / "jfk.safetensors"
    assert run(jfk_stereo_path, "--model", tiny_en, "-o", file) == 0
    tensors, _ = read(file)
    assert tensors["log_mel"].shape == (80, 3000)
    assert int(tensors["attention_mask"].sum()) == 1100
    model = WhisperEncoder.from_pretrained(tiny_en)
    expected = model(tensors["log_mel"], output_hidden_states=True)
    assert tensors["last_hidden_state"].equal(expected.last_hidden_state[0])
    assert tensors["hidden_states.2"].equal(expected.hidden_states[2][0])
