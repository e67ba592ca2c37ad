"""The README's Python runs as it stands, in a folder that holds what it names."""

import re
import shutil
from pathlib import Path

import pytest

import encoder
from encoder.checkpoint import save_hf

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_there_are_blocks():
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0])
def test_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "reference_data" / "sample.flac", "speech.flac")
    if "from_pretrained" in block:  # a local folder of a model's name is taken for it
        config = encoder.SIZES["tiny.en"]
        model = encoder.WhisperEncoder.from_formula(config)
        save_hf("openai/whisper-tiny.en", config, model.state_dict())
    scope = {}
    exec(block, scope)
    if "out" in scope:
        assert scope["mel"].shape == (80, 3000)
        assert scope["mask"].sum() == 810
        assert scope["out"].last_hidden_state.shape == (1, 1500, 384)
        assert len(scope["out"].hidden_states) == 5
