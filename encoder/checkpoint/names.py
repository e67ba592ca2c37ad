"""The names of the encoder's tensors, and where among all names of a checkpoint they are.

A model that holds Whisper's encoder, or a wrapper around it, puts a prefix before these names:
`model.encoder.`, `audio_tower.`, `module.`. Any is taken under which a whole encoder is found.
"""

# M mel bins  T positions  S state  N inner width of the MLP

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from melfront.command import shorten

from ..config import EncoderConfig
from .files import CheckpointError
from .foreign import tensors_kind

# There is no row for the bias of k, because Whisper has none: it would add the same number to
# every score of a query, and softmax cancels it.
TABLE = """
conv1.weight               conv1.weight                           conv1.weight                 S,M,3
conv1.bias                 conv1.bias                             conv1.bias                   S
conv2.weight               conv2.weight                           conv2.weight                 S,S,3
conv2.bias                 conv2.bias                             conv2.bias                   S
positions                  embed_positions.weight                 positional_embedding         T,S

blocks.{}.attn_ln.weight   layers.{}.self_attn_layer_norm.weight  blocks.{}.attn_ln.weight     S
blocks.{}.attn_ln.bias     layers.{}.self_attn_layer_norm.bias    blocks.{}.attn_ln.bias       S
blocks.{}.attn.q.weight    layers.{}.self_attn.q_proj.weight      blocks.{}.attn.query.weight  S,S
blocks.{}.attn.q.bias      layers.{}.self_attn.q_proj.bias        blocks.{}.attn.query.bias    S
blocks.{}.attn.k.weight    layers.{}.self_attn.k_proj.weight      blocks.{}.attn.key.weight    S,S
blocks.{}.attn.v.weight    layers.{}.self_attn.v_proj.weight      blocks.{}.attn.value.weight  S,S
blocks.{}.attn.v.bias      layers.{}.self_attn.v_proj.bias        blocks.{}.attn.value.bias    S
blocks.{}.attn.out.weight  layers.{}.self_attn.out_proj.weight    blocks.{}.attn.out.weight    S,S
blocks.{}.attn.out.bias    layers.{}.self_attn.out_proj.bias      blocks.{}.attn.out.bias      S
blocks.{}.mlp_ln.weight    layers.{}.final_layer_norm.weight      blocks.{}.mlp_ln.weight      S
blocks.{}.mlp_ln.bias      layers.{}.final_layer_norm.bias        blocks.{}.mlp_ln.bias        S
blocks.{}.mlp.fc1.weight   layers.{}.fc1.weight                   blocks.{}.mlp.0.weight       N,S
blocks.{}.mlp.fc1.bias     layers.{}.fc1.bias                     blocks.{}.mlp.0.bias         N
blocks.{}.mlp.fc2.weight   layers.{}.fc2.weight                   blocks.{}.mlp.2.weight       S,N
blocks.{}.mlp.fc2.bias     layers.{}.fc2.bias                     blocks.{}.mlp.2.bias         S

ln_post.weight             layer_norm.weight                      ln_post.weight               S
ln_post.bias               layer_norm.bias                        ln_post.bias                 S
"""
OURS, HF, OPENAI, SHAPE = range(4)  # the columns of the table
COLUMNS = (HF, OPENAI, OURS)
STEM, BLOCK, POST = (
    [line.split() for line in part.splitlines()] for part in TABLE.strip().split("\n\n")
)
PREFIX = "model.encoder."  # transformers' of a whole Whisper
USUAL = (PREFIX, "encoder.", "")  # where Whisper itself has them
LAYER = re.compile(r"(?:layers|blocks)\.(\d{1,3})\.")


class Layout(NamedTuple):
    """How a checkpoint names the encoder's tensors."""

    prefix: str
    column: int  # of the table
    found: dict[str, str]  # our name -> its name in the checkpoint


def recognise(names: Collection[str], path: Path, prefix: str | None = None) -> Layout:
    """Where a checkpoint has an encoder: under which prefix, by which column of the table.

    names: of all its tensors, in a container that looks one up at once: a hostile file may have
        hundreds of thousands. path: for the error.
    prefix: None takes the only one that has a whole encoder. If none has, it takes the one that has
        most of it, so that the caller can say what is missing.
    Raises CheckpointError if there is nothing of an encoder, or more than one.
    """
    first = STEM[0][HF]  # conv1.weight, by any column
    found = (name.removesuffix(first) for name in names if name.endswith(f".{first}"))
    prefixes = [prefix] if prefix is not None else list(dict.fromkeys([*USUAL, *found]))
    whole = {
        start: column
        for start, column in itertools.product(prefixes, COLUMNS)
        if _is_whole(names, start, column)
    }
    if len(whole) > 1:
        one, two, *_ = (repr(shorten(start, 120)) for start in sorted(whole))
        raise CheckpointError(
            f"{path} has {len(whole)} encoders, under {one} and {two}: say which, as prefix={one}"
        )
    if whole:
        return _plain(_layout(names, *whole.popitem()), names, path)
    # For a message, ten are enough: a hostile file has any number of beginnings.
    beginnings = itertools.product(prefixes[:10], COLUMNS)
    best = max((_layout(names, *each) for each in beginnings), key=lambda x: len(x.found))
    if not best.found:
        if what := tensors_kind(names):
            raise CheckpointError(f"{path} has {what}")
        if any("decoder." in name for name in names) and not any("encoder." in n for n in names):
            raise CheckpointError(f"{path} has a decoder alone: give a checkpoint of the whole")
        under = "" if prefix is None else f" under {shorten(prefix, 120)!r}"
        raise CheckpointError(
            f"{path} has no tensor of a Whisper encoder{under}; "
            f"it has {some(names, 3) or 'no tensors'}"
        )
    return _plain(best, names, path)


def _plain(layout: Layout, names: Collection[str], path: Path) -> Layout:
    """The layout. Raises CheckpointError if its weights are quantised, or wrapped by adapters."""
    if what := tensors_kind(inside(names, layout)):
        raise CheckpointError(f"{path} has {what}")
    return layout


def inside(names: Collection[str], layout: Layout) -> list[str]:
    """The names under the encoder's prefix, also those of no tensor that it has."""
    other = ("decoder.", "proj_out.")  # where the prefix is empty
    return [n for n in names if n.startswith(layout.prefix) and not n.startswith(other)]


def _is_whole(names: Collection[str], prefix: str, column: int) -> bool:
    """Are all tensors of an encoder there? Looks up little more than what it finds."""
    attn_ln, n_layer = BLOCK[0][column], 0
    while prefix + attn_ln.format(n_layer) in names:
        n_layer += 1
    return n_layer > 0 and all(prefix + row[column] in names for row in rows(n_layer))


def _layout(names: Collection[str], prefix: str, column: int) -> Layout:
    """What is there under a prefix by the names of one column, up to a layer without any."""

    def has_any(i: int) -> bool:
        return any(prefix + row[column].format(i) in names for row in BLOCK)

    n_layer = sum(1 for _ in itertools.takewhile(has_any, range(1000)))
    named = {row[OURS]: prefix + row[column] for row in rows(n_layer)}
    return Layout(prefix, column, {ours: name for ours, name in named.items() if name in names})


def shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every weight, by our name, in the order of the forward pass."""
    sizes = {
        "M": config.n_mels,
        "T": config.n_audio_ctx,
        "S": config.n_audio_state,
        "N": config.n_audio_mlp,
        "3": 3,  # the kernel of both convolutions
    }
    return {
        row[OURS]: tuple(sizes[axis] for axis in row[SHAPE].split(","))
        for row in rows(config.n_audio_layer)
    }


def hf_name(ours: str) -> str:
    """transformers' name of a weight, without prefix: blocks.3.mlp.fc1.bias, layers.3.fc1.bias."""
    return _name(ours, HF)


def openai_name(ours: str) -> str:
    """openai-whisper's name of a weight: blocks.3.mlp.fc1.bias, blocks.3.mlp.0.bias."""
    return _name(ours, OPENAI)


def _name(ours: str, column: int) -> str:
    layer = LAYER.match(ours)
    name = LAYER.sub("blocks.{}.", ours, count=1)
    for row in STEM + BLOCK + POST:
        if row[OURS] == name:
            return row[column].format(layer and layer[1])
    raise KeyError(f"the encoder has no weight {ours!r}")


def rows(n_layer: int) -> Iterator[list[str]]:
    """The rows of the table, with those of a block repeated for every layer."""
    yield from STEM
    for i in range(n_layer):
        for row in BLOCK:
            yield [cell.format(i) for cell in row]
    yield from POST


def some(names: Collection[str], most: int = 10) -> str:
    """The first few, and how many more there are."""
    more = len(names) - most
    first = [shorten(name, 120) for name in itertools.islice(names, most)]
    return ", ".join(first) + (f", and {more} more" if more > 0 else "")
