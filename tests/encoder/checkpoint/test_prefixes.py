"""An encoder is found under any one prefix, whole, and among any number of other names."""

import contextlib
import json

import pytest
import torch

from melfront.encoder import CheckpointError
from melfront.encoder.checkpoint import load
from melfront.encoder.checkpoint.names import recognise
from tests.encoder.checkpoint.checkpoints import (
    HF,
    LANGUAGE,
    NARROW,
    OPENAI,
    SQUARE,
    assert_same,
    dims,
    make,
    refuses,
    renamed,
    under,
    write,
    write_shards,
)

PREFIXES = (
    "model.audio_tower.", "thinker.audio_tower.", "base_model.model.model.encoder.", "module.",
    "_orig_mod.", "whisper_model.encoder.", "model.whisper.encoder.", "module.module.encoder.",
    "a{0}{x}.b.", "layers.3.", "conv1.weight.",
)  # fmt: skip


@pytest.mark.parametrize("column", [HF, OPENAI], ids=["hf", "openai"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_prefix(tmp_path, prefix, column):
    tensors = under(prefix, make(), column) | LANGUAGE
    path = write(tmp_path / "a" / "model.safetensors", tensors, NARROW)
    assert_same(load(path)[1], make())
    assert_same(load(path, prefix=prefix)[1], make())
    write_shards(tmp_path / "b", tensors, NARROW, ".bin")
    assert_same(load(tmp_path / "b")[1], make())


def test_two_encoders(tmp_path):
    other = {name: x + 1 for name, x in make().items()}
    tensors = under("teacher.encoder.", make()) | under("student.", other, OPENAI)
    for path in (
        write(tmp_path / "a" / "model.safetensors", tensors, NARROW),
        write_shards(tmp_path / "b", tensors, NARROW, ".safetensors").parent,
    ):
        refuses(path, "has 2 encoders, under 'student.' and 'teacher.encoder.': say which, as ")
        assert_same(load(path, prefix="teacher.encoder.")[1], make())
        assert_same(load(path, prefix="student.")[1], other)
        refuses(path, "no tensor of a Whisper encoder under 'nobody.'", prefix="nobody.")


def test_a_half_does_not_complete_another(tmp_path):
    """Every name is there, each under one of two prefixes, or in one of two libraries' words."""
    halves = {}
    for i, (one, two) in enumerate(
        zip(under("a.", make()).items(), under("b.", make()).items(), strict=True)
    ):
        halves |= dict([one if i % 2 else two])
    refuses(write(tmp_path / "a.safetensors", halves, NARROW), "missing: ")
    hf, openai = under("a.", make()), under("a.", make(), OPENAI)
    mixed = dict(list(hf.items())[:30]) | dict(list(openai.items())[30:])
    refuses(write(tmp_path / "b.safetensors", mixed, NARROW), "missing: ", "left over")


def test_a_whole_encoder_is_taken_before_the_parts_of_others(tmp_path):
    """A checkpoint whose usual place has all but one tensor, beside a whole encoder."""
    tensors = under("model.encoder.", make()) | under("other.", make())
    del tensors["model.encoder.conv2.bias"]
    assert_same(load(write(tmp_path / "a.safetensors", tensors, NARROW))[1], make())
    del tensors["other.conv2.bias"]
    refuses(
        write(tmp_path / "b.safetensors", tensors, NARROW), "1 missing: model.encoder.conv2.bias"
    )


def test_extra_tensors_of_the_encoder_are_refused(tmp_path):
    """A bias of k, a gated MLP, a projection: another function than Whisper's."""
    for extra in ("layers.0.self_attn.k_proj.bias", "layers.1.fc3.weight", "proj.weight"):
        tensors = under("audio_tower.", make()) | {f"audio_tower.{extra}": torch.zeros(26)}
        path = write(tmp_path / "a.safetensors", tensors, NARROW)
        refuses(path, "1 left over", f": audio_tower.{extra}")


class Counting(dict):
    """Names that count how often one is looked up."""

    count = 0

    def __contains__(self, name):
        self.count += 1
        return super().__contains__(name)


@pytest.mark.parametrize(
    "pattern",
    [
        ["{}.conv1.weight"],
        ["{}.conv1.weight", "{}.embed_positions.weight", "{}.positional_embedding"],
        ["{}.conv1.weight", "{}.positions", "{}.blocks.0.attn_ln.weight"],
        ["layers.{}.self_attn_layer_norm.weight"],
        ["p.layers.{}.self_attn_layer_norm.weight", "p.layers.{}.fc2.bias"],
        ["{}." * 30 + "conv1.weight"],
    ],
    ids=len,
)
def test_look_ups_of_a_hostile_file(tmp_path, pattern):
    """Their number grows with that of the names, not with its square."""
    names = Counting(dict.fromkeys(p.replace("{}", str(i)) for i in range(20_000) for p in pattern))
    if len(pattern) < 3:
        names |= dict.fromkeys(["conv1.weight", "embed_positions.weight", "p.conv1.weight"])
    with contextlib.suppress(CheckpointError):
        recognise(names, tmp_path)
    # One for every name found and, for each column, one that is not there. The message looks at
    # most at 10 prefixes, by 3 columns, of 1000 layers, twice for the 15 names of each.
    assert names.count <= 5 * len(names) + 10 * 3 * 1000 * 2 * 15


# --- Whisper itself, from others ------------------------------------------------------------------


def test_distilled_models_have_another_decoder(tmp_path):
    """distil-whisper, turbo and CrisperWhisper: fewer decoder layers, or other tokens."""
    about = NARROW.to_hf() | {"decoder_layers": 7, "decoder_ffn_dim": 31, "vocab_size": 51_866}
    path = write(tmp_path / "model.safetensors", renamed(make()))
    (tmp_path / "config.json").write_text(json.dumps(about))
    config, weights = load(path)
    assert config == NARROW
    assert_same(weights, make())


def test_whisper_at(tmp_path, caplog):
    """openai-whisper's file with the tensors of an audio tagger beside those of Whisper."""
    state = renamed(make(SQUARE), OPENAI, "encoder.") | {"at_model.mlp.weight": torch.zeros(3)}
    path = write(tmp_path / "a.pt", {"dims": dims(SQUARE), "model_state_dict": state})
    assert_same(load(path)[1], make(SQUARE))
    assert not caplog.records, "Whisper itself needs no words"
