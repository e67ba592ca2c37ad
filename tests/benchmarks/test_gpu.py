"""`melfront benchmarks gpu` on a CPU: the same code without CUDA graphs and compilation."""

import json
from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import melfront
from melfront.benchmarks.__main__ import main as benchmark
from melfront.benchmarks.gpu import cli
from melfront.encoder import SIZES, WhisperEncoder, graphed


def rows(folder):
    return json.loads((folder / "gpu.json").read_text())


@pytest.mark.slow
def test_every_part_gives_rows(tmp_path, capsys):
    page = tmp_path / "GPU.md"
    options = ["--device", "cpu", "--size", "tiny", "--markdown", str(page), "-o", str(tmp_path)]
    assert cli.main(options) == 0
    found = rows(tmp_path)
    parts = dict.fromkeys(row["part"] for row in found)
    expected = "machine features weights oracle states frontend roofs encoder"
    assert list(parts) == expected.split()
    by_part = {part: [row for row in found if row["part"] == part] for part in parts}
    assert all(row["float64_max"] <= 1e-10 for row in by_part["features"] + by_part["oracle"])
    # Noise is in units of transformers' own error.
    assert all(row["noise"] <= 2 for row in by_part["features"])
    assert all(row["worst_noise"] <= 3 for row in by_part["states"])
    assert {row["who"] for row in by_part["encoder"]} > {"melfront", "transformers"}
    printed = capsys.readouterr().out
    table = page.read_text().split("```")[1]
    assert table.strip() in printed
    assert len(table.splitlines()) <= 60


def test_failed_part_is_reported_and_the_others_run(tmp_path, monkeypatch, capsys):
    for part in ("features", "against_the_oracle", "hidden_states"):
        monkeypatch.setattr(cli, part, lambda *_: None)
    monkeypatch.setattr(cli, "frontend", lambda *_: 1 / 0)
    monkeypatch.setattr(cli, "encoders", lambda r, *_: r.add("encoder", reached=True))
    options = ["--device", "cpu", "--size", "tiny", "-o", str(tmp_path)]
    assert cli.main(options) == 1
    found = {row["part"]: row for row in rows(tmp_path)}
    assert found["frontend"]["failed"] == "ZeroDivisionError: division by zero"
    assert found["encoder"]["reached"]


def test_only_the_parts_that_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "formula_encoder", lambda *_: 1 / 0)
    options = ["--device", "cpu", "--size", "tiny", "--only", "features", "-o", str(tmp_path)]
    assert cli.main(options) == 0
    assert {row["part"] for row in rows(tmp_path)} == {"machine", "features"}


def test_parts_skipped_for_lack_of_time_are_reported(tmp_path):
    options = ["--device", "cpu", "--size", "tiny", "--minutes", "0", "-o", str(tmp_path)]
    assert cli.main(options) == 0
    skipped = [row["part"] for row in rows(tmp_path) if "skipped" in row]
    assert {"features", "states", "frontend", "encoder"} <= set(skipped)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_gpu(tmp_path, capsys):
    assert benchmark(["gpu", "-o", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "--device cuda" in err
    assert not list(tmp_path.iterdir())


def test_graph_needs_a_cuda_device():
    model = WhisperEncoder.from_formula(SIZES["tiny"])
    with pytest.raises(ValueError, match="needs a CUDA device; given a tensor on cpu"):
        graphed(model)
    with pytest.raises(ValueError, match="needs a CUDA device"):
        melfront.Graphed(melfront.LogMel(), torch.zeros(1, 16_000))


def test_one_compiled_block_serves_all():
    model = WhisperEncoder.from_formula(replace(SIZES["tiny"], n_audio_ctx=20))
    counter = CompileCounter()
    for block in model.blocks:
        block.compile(dynamic=False, backend=counter)
    mel = torch.randn(1, 80, 40)
    with torch.no_grad():
        assert torch.isfinite(model(mel).last_hidden_state).all()
    assert len(model.blocks) == 4
    assert counter.frame_count == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_graph_matches_the_model():
    model = WhisperEncoder.from_formula(SIZES["tiny"], device="cuda")
    run = graphed(model, 2)
    for seed in range(3):
        torch.manual_seed(seed)
        mel = torch.randn(2, 80, 3_000, device="cuda")
        with torch.no_grad():
            assert torch.equal(run(mel), model(mel).last_hidden_state)
    with pytest.raises(ValueError, match="this graph takes"):
        run(mel[:1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_graph_matches_the_front_end():
    frontend = melfront.LogMel(80)
    clips = 0.1 * torch.randn(3, 2, 80_000, device="cuda")
    run = melfront.Graphed(frontend, clips[0])
    for batch in clips:
        assert torch.equal(run(batch), frontend(batch))
