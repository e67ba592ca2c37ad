"""`Stage` resolves a name once and then knows its part, block, axes and order."""

import copy
import pickle

import pytest

from melfront.parity import stages
from melfront.parity.files.names import stages_of
from melfront.parity.stages import BLOCK, FRONT_END, ParityError, Stage, of_encoder


def test_stage_equals_its_name():
    stage = Stage("block.3.attn.q")
    assert stage == "block.3.attn.q"
    assert {"block.3.attn.q": 1}[stage] == 1
    assert (stage.part, stage.block, stage.axes) == ("block", 3, ("T", "S"))
    assert stage.within == "attn.q"
    assert stage.in_block(0) == "block.0.attn.q"
    assert stage.in_block("I") in BLOCK
    assert Stage("mel").in_block(0) == "mel"


def test_order_is_the_order_of_computation():
    every = [*FRONT_END, *of_encoder(12)]
    assert sorted(every, key=lambda stage: stage.order) == every
    assert len({stage.order for stage in every}) == len(every)


def test_time_axis():
    axes = {name: Stage(name).time_axis for name in ("padded", "frames", "mel", "ln_post")}
    assert axes == {"padded": None, "frames": 0, "mel": 1, "ln_post": 0}
    assert Stage("block.0.attn.scores").time_axis == 1


def test_stage_is_frozen():
    stage = Stage("mel")
    with pytest.raises(AttributeError, match="frozen"):
        stage.block = 3
    for other in (copy.copy(stage), copy.deepcopy(stage), pickle.loads(pickle.dumps(stage))):
        assert isinstance(other, Stage)
        assert (other, other.order, other.axes) == (stage, stage.order, stage.axes)


@pytest.mark.parametrize(
    "name", ["", "mell", "block", "block.0", "block.x.attn.q", "block.0.mel", "attn.q", "MEL"]
)
def test_unknown_name(name):
    with pytest.raises(ParityError, match="unknown stage"):
        Stage(name)


def test_block_number_beyond_the_model():
    assert list(stages_of(["block.1.attn.q"], 2)) == ["block.1.attn.q"]
    assert list(stages_of(["block.999.attn.q"], None)) == ["block.999.attn.q"]
    for name in ("block.2.attn.q", "block.I.attn.q"):
        with pytest.raises(ParityError, match="unknown stage"):
            stages_of([name], 2)


def test_listing_has_every_stage():
    lines = stages.listing().splitlines()
    names = [line.split()[0] for line in lines]
    assert names == [stage.in_block("I") for stage in [*FRONT_END, *of_encoder(1)]]
