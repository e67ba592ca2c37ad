"""The committed data show every mistake of the catalogue and are enough to name it."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from melfront import parity
from melfront.encoder.built_in import TOYS
from melfront.parity import mistakes, noise, signals
from melfront.parity.files import tensors
from melfront.parity.mistakes import ENCODER, FRONT_END
from melfront.parity.noise import PASS, SHAPE, WRONG
from melfront.parity.pages import mistakes_page
from melfront.reference_data import make

PAGE = Path(parity.__file__).with_name("MISTAKES.md")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """With the toys' small matrices, several threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# The signals that show most mistakes, tried before the others.
FIRST = ("speech", "noise", "padded", "late", "quiet", "batch")
COLUMNS = (*FIRST, *(name for name in signals.SHORT if name not in FIRST), "sample")


@cache
def committed(name):
    return tensors.read(make.HERE / name)


def is_wrong(mine, held, stage):
    truth, floor = held.tensors[stage].values.astype(np.float64), held.floors[stage]
    return mine.shape != truth.shape or noise.error(mine, truth, floor).verdict == WRONG


@pytest.mark.parametrize("n_mels", make.N_MELS)
@pytest.mark.parametrize("entry", FRONT_END, ids=lambda entry: entry.name)
def test_front_end_mistake_is_wrong_somewhere(entry, n_mels):
    """In the final features of at least one signal."""
    for name in COLUMNS:
        pipeline = pipeline_of(name, n_mels)
        features = pipeline.front_end(entry.convention(pipeline.convention))["features"]
        held = committed(f"frontend/{name}.{n_mels}.safetensors")
        if is_wrong(features.astype(np.float32), held, "features"):
            return
    pytest.fail(f"{entry.name} passes on every signal")


@cache
def pipeline_of(name, n_mels):
    return mistakes_page.of_signal(name, n_mels)


@pytest.mark.parametrize("entry", ENCODER, ids=lambda entry: entry.name)
def test_encoder_mistake_is_wrong_at_its_own_stage(entry):
    """In at least one of the two toy encoders."""
    for name in TOYS:
        mine = mistakes_page.made(entry, mistakes_page.model_of(name).pipeline)
        held = committed(f"encoder/{name}.safetensors")
        if is_wrong(mine[entry.stage], held, entry.stage):
            return
    pytest.fail(f"{entry.name} passes in both")


def some_slow(entries, every):
    """All entries, of which all but every `every`-th are marked slow."""
    return [
        pytest.param(entry, id=entry.name, marks=[pytest.mark.slow] if i % every else [])
        for i, entry in enumerate(entries)
    ]


@pytest.mark.parametrize("entry", some_slow(FRONT_END, 5))
def test_front_end_mistake_is_named_first_and_alone(entry):
    """On at least one signal, from the final features alone."""
    cells = {}
    for name in COLUMNS:
        cells[name] = mistakes_page.front_end_cell(entry, name)
        if cells[name].names == (entry.name,):
            return
    pytest.fail(str(cells))


@pytest.mark.parametrize("entry", ENCODER, ids=lambda entry: entry.name)
def test_encoder_mistake_is_named_first_and_alone(entry):
    """In at least one of the two toys, from the last hidden state alone."""
    for name in TOYS:
        found = mistakes_page.encoder_cell(entry, name)
        if found.names == (entry.name,):
            return
    pytest.fail(f"{entry.name}: {found}")


# The page


def rows(heading):
    """The table under a heading with this prefix: mistake -> cells."""
    part = PAGE.read_text("utf-8").split(f"## {heading}")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    header, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {cells[0]: dict(zip(header[1:], cells[1:], strict=True)) for cells in body}


@pytest.mark.parametrize(("heading", "entries"), [("Front end", FRONT_END), ("Encoder", ENCODER)])
def test_page_has_every_mistake(heading, entries):
    found = rows(heading)
    assert list(found) == [entry.name for entry in entries]
    for name, cells in found.items():
        assert any(cell.endswith("✓") for cell in cells.values()), name


@pytest.mark.parametrize("entry", FRONT_END[::7], ids=lambda entry: entry.name)
def test_page_matches_a_run(entry):
    """The page says "blind" where a run passes: every seventh mistake, on three signals."""
    for name in ("padded", "tone", "faint"):
        cell = mistakes_page.front_end_cell(entry, name)
        assert (rows("Front end")[entry.name][name] == "blind") == (cell.verdict == PASS)


def test_page_of_two_mistakes():
    names = ("no frame dropped", "tail of zeros")
    columns = ("padded", "tone")
    front = {
        n: {c: mistakes_page.front_end_cell(mistakes.find(n), c) for c in columns} for n in names
    }
    assert front["no frame dropped"]["padded"].verdict == SHAPE
    text = mistakes_page.page(front, {})
    assert "| tail of zeros |" in text
    assert "blind to 1 of 2: tail of zeros" in text
    # Zeros after the clip's features or after its samples: the same on a clip that ends in silence.
    assert "1 of 2 mistakes are named first and alone" in text
