"""The stage that a name stands for: one of ours, or what another program calls it.

Other programs are transformers and openai-whisper, by the paths of their modules as forward hooks
give them, what torch.onnx.export calls the values of a graph, Core ML and ggml. A name is compared
without its separators: `/encoder/layers.0/fc1`, `encoder.layers[0].fc1` and `encoder_layers_0_fc1`
are one.

A hook gives what a module returns: `layers.0` is the whole block's output, `self_attn` that of its
last projection, and `q_proj` the queries before they are scaled, in every release of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from melfront.command import one_line

from ..stages import ALIASES, BLOCK, FRONT_END, LN_POST, STEM, ParityError, Stage, shown, unknown

HIDDEN = "hidden_states."


def joined(name: str) -> str:
    """A name in lower case, every separator an underscore: "layers.0/fc1" is layers_0_fc1."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


# What may stand before the encoder's own modules, and which of it names the encoder itself.
ENCODER = ("encoder", "audio_tower", "audio_encoder", "speech_encoder", "whisper_encoder")
WRAPPERS = ("model", "module", "whisper_model", "whisper", "base_model", "orig_mod", "thinker")
WRAPPED = re.compile(rf"(?:(?:{'|'.join((*ENCODER, *WRAPPERS))})_)*")
NOT_OURS = {"decoder", "language", "text", "lm", "llm", "vision", "projector", "cross"}

MODULES = {
    "conv1": Stage("conv1"),
    "conv2": Stage("conv2"),
    "layer_norm": LN_POST,
    "ln_post": LN_POST,
}
TOP = {joined(stage): stage for stage in (*FRONT_END, *STEM, LN_POST)} | {
    **MODULES,
    "last_hidden_state": LN_POST,
    "encoder_output_embeds": LN_POST,  # Core ML, as WhisperKit exports it
    "encoder_hidden_states": LN_POST,  # what a decoder is given
    "encoder_out": LN_POST,
    "embd_enc": LN_POST,  # whisper.cpp
    "embd_conv": Stage("gelu2"),  # whisper.cpp
    "log_mel": Stage("features"),
    "input_features": Stage("features"),
    "log_mel_spectrogram": Stage("features"),
    "mel_spectrogram": Stage("features"),
    "melspectrogram_features": Stage("features"),  # Core ML
    "logmel_data": Stage("features"),  # Core ML, as whisper.cpp calls it
}
ATTENTION = ("self_attn", "attn", "self_attention", "attention")
PROJECTIONS = {
    "attn.q": ("q_proj", "query", "q"),
    "attn.k": ("k_proj", "key", "k"),
    "attn.v": ("v_proj", "value", "v"),
    "attn.out": ("out_proj", "o_proj", "out"),
}
# Within a block, behind `layers.0.` or `blocks.0.`: ours, transformers', openai-whisper's.
PARTS = {joined(stage.within): stage.within for stage in BLOCK} | {
    "": "mlp_residual",
    "self_attn_layer_norm": "attn_ln",
    "final_layer_norm": "mlp_ln",
    "fc1": "mlp.fc1",
    "activation_fn": "mlp.gelu",
    "fc2": "mlp.fc2",
    "mlp_0": "mlp.fc1",
    "mlp_1": "mlp.gelu",
    "mlp_2": "mlp.fc2",
    "mlp": "mlp.fc2",
    **dict.fromkeys(ATTENTION, "attn.out"),
    **{f"{a}_{p}": within for a in ATTENTION for within, ps in PROJECTIONS.items() for p in ps},
}
# ONNX: the op, with its number, that gives what a stage holds: in a module, or in a block itself.
OPS = {
    "attn.q": ("add", "gemm"),
    "attn.k": ("matmul", "gemm"),
    "attn.v": ("add", "gemm"),
    "attn.out": ("add", "gemm"),
    "mlp.fc1": ("add", "gemm"),
    "mlp.fc2": ("add", "gemm"),
    "mlp.gelu": ("mul_1", "gelu"),
    "attn_ln": ("layernormalization", "add_1"),
    "mlp_ln": ("layernormalization", "add_1"),
    "ln_post": ("layernormalization", "add_1"),
    "conv1": ("conv",),
    "conv2": ("conv",),
}
OPS_OF_ATTENTION = {"matmul": "attn.scores", "softmax": "attn.weights", "matmul_1": "attn.context"}
OPS_OF_BLOCK = {"add": "attn_residual", "add_1": "mlp_residual"}
OPS_OF_STEM = {"mul_1": "gelu1", "gelu": "gelu1", "mul_3": "gelu2", "gelu_1": "gelu2",
               "add_2": "positions"}  # fmt: skip


class Unknown(ParityError):
    """A name that no stage has. The words, which take a search, are found when they are shown."""

    def __init__(self, name: str, n_layer: int | None) -> None:
        ValueError.__init__(self, name, n_layer)

    def __str__(self) -> str:
        return one_line(unknown(*self.args))


class NoStage(ParityError):
    """A name that is known, of something that is no stage; the message says what it is."""


def stages_of(names: Iterable[str], n_layer: int | None) -> dict[str, Stage]:
    """The stage that each of the names in a file stands for, name to stage.

    For an encoder of n_layer blocks, or None where that is not known. Two names may stand for one
    stage. Raises ParityError for an unknown name, with the nearest known one.
    """
    known_, left_out = sorted_out(names, n_layer)
    for error in left_out.values():
        raise error
    return known_


def sorted_out(
    names: Iterable[str], n_layer: int | None
) -> tuple[dict[str, Stage], dict[str, ParityError]]:
    """The names that stand for a stage, with it; and those that do not, with the reason.

    Raises ParityError for a block or a hidden state that an encoder of n_layer blocks lacks.
    """
    names = list(names)
    spelled_out = {s for s in FRONT_END if s != "mel"} | {"log_mel", "input_features"}
    exported = any(re.fullmatch(r"(linear|layer_norm|gelu|conv1d|add)_\d+", n) for n in names)
    found: dict[str, Stage] = {}
    left_out: dict[str, ParityError] = {}
    for name in names:
        try:
            if name == "mel" and not spelled_out.isdisjoint(names):
                found[name] = Stage(name)
            else:
                stage = of_graph(name, n_layer) if exported else None
                found[name] = stage or stage_named(name, n_layer)
        except OutOfRange:
            raise
        except ParityError as error:
            left_out[name] = error
    return found, left_out


class OutOfRange(ParityError):
    """A stage of a block that the encoder does not have."""


def stage_named(name: str, n_layer: int | None) -> Stage:
    """The stage that a name stands for in an encoder of n_layer blocks. Raises ParityError."""
    if name in ALIASES:
        return Stage(ALIASES[name])
    hidden = re.fullmatch(r"(.*)hidden_states?[^a-z0-9-]*(-?\d{1,3})\]?", name.lower())
    if hidden and WRAPPED.fullmatch(f"{joined(hidden[1])}_".lstrip("_")):
        return hidden_state(int(hidden[2]), n_layer)
    key = joined(name)
    if op := re.fullmatch(r"(?:(.*?)_)??([a-z]+(?:_\d+)?)_output_0", key):
        return of_op(name, op[1] or "", op[2], n_layer)
    return of_module(name, re.sub(r"_outputs?(_0)?$", "", key), n_layer)


def of_module(name: str, key: str, n_layer: int | None) -> Stage:
    """The stage that a module of an encoder returns. key: `joined(name)`. Raises ParityError."""
    if key.endswith(("_weight", "_bias")):
        raise NoStage(f"{shown(name)} is a weight by its name")
    if foreign := NOT_OURS & {*key.split("_")}:
        raise NoStage(f"{shown(name)} is not of the encoder: {min(foreign)}")
    if "embed_positions" in key or "positional_embedding" in key:
        raise NoStage(f"{shown(name)} is a constant table, and no stage")
    block = re.fullmatch(r"(?:.+?_)??(?:layers?|blocks?|h)_(\d+)(?:_(.+))?", key)
    stage = None
    if block:
        if (within := part_of_block(block[2] or "")) is not None:
            return in_block(name, block[1], within, n_layer)
    elif key.endswith(ENCODER) and WRAPPED.fullmatch(f"{key}_"):
        return LN_POST
    else:
        last = joined(re.split(r"[./]", name)[-1])  # behind any wrapper whose name has no meaning
        stage = TOP.get(WRAPPED.sub("", key, count=1)) or TOP.get(key) or MODULES.get(last)
    if stage is None:
        raise Unknown(name, n_layer)
    return stage


def part_of_block(part: str) -> str | None:
    """The stage of a block that a part of it returns: "self_attn_q_proj" is "attn.q"."""
    return PARTS.get(part, PARTS.get(part.removeprefix("mlp_")))  # a Sequential's: mlp/mlp.0


def in_block(name: str, digits: str, within: str, n_layer: int | None) -> Stage:
    """The stage of this block. Raises OutOfRange."""
    try:
        stage = Stage(f"block.{digits}.{within}")
    except ParityError as error:  # a number of many digits
        raise OutOfRange(str(error)) from error
    if n_layer is not None and (stage.block or 0) >= n_layer:
        raise OutOfRange(
            f"unknown stage {name!r}: an encoder of {n_layer} blocks has none of number {digits}"
        )
    return stage


def of_op(name: str, path: str, op: str, n_layer: int | None) -> Stage:
    """The stage that an op of an ONNX graph gives. path: its module's, joined.

    Raises ParityError.
    """
    inside = NoStage(f"{shown(name)} is a value inside a stage")
    if not path or WRAPPED.fullmatch(f"{path}_"):
        if op not in OPS_OF_STEM:
            raise inside
        return Stage(OPS_OF_STEM[op])
    stage = of_module(name, path, n_layer)
    if path.endswith(ATTENTION):
        within = OPS_OF_ATTENTION.get(op)
    elif stage.within == "mlp_residual":
        within = OPS_OF_BLOCK.get(op)
    else:
        within = stage.within if op in OPS.get(stage.within, ()) else None
    if within is None:
        raise inside
    return stage if stage.block is None else Stage(f"block.{stage.block}.{within}")


def of_graph(name: str, n_layer: int | None) -> Stage | None:
    """The stage of a value that torch.export numbers by its function: `linear_6`, `layer_norm_2`.

    A block has six linear maps, two norms, two sums and one of each other; the stem comes first.
    """
    found = re.fullmatch(r"([a-z0-9_]+?)(?:_(\d{1,4}))?", name)
    if found is None:
        return None
    function, number = found[1], int(found[2] or 0)
    stem = {"conv1d": ("conv1", "conv2"), "gelu": ("gelu1", "gelu2"), "add": ("positions",)}
    blocks = {
        "linear": ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.fc1", "mlp.fc2"),
        "layer_norm": ("attn_ln", "mlp_ln"),
        "gelu": ("mlp.gelu",),
        "add": ("attn_residual", "mlp_residual"),
        "softmax": ("attn.weights",),
        "matmul": ("attn.scores", "attn.context"),
        "scaled_dot_product_attention": ("attn.context",),
    }
    before = stem.get(function, ())
    if number < len(before):
        return Stage(before[number])
    if function not in blocks:
        return None
    block, place = divmod(number - len(before), len(blocks[function]))
    if function == "layer_norm" and block == n_layer:
        return LN_POST
    return in_block(name, str(block), blocks[function][place], n_layer)


def hidden_state(i: int, n_layer: int | None) -> Stage:
    """The stage that transformers returns as hidden_states[i]. Raises OutOfRange."""
    if i < 0:  # counted from the end: -1 is the normed output
        if n_layer is None and i < -1:
            raise OutOfRange(f"{HIDDEN}{i}: counted from the end, of a model that is not given")
        i += 1 + (n_layer or 0)
        if n_layer is None:
            return LN_POST
    if i < 0 or (n_layer and i > n_layer):
        raise OutOfRange(
            f"unknown stage {HIDDEN}{i}: an encoder of {n_layer} blocks has {HIDDEN}0 to "
            f"{HIDDEN}{n_layer}"
        )
    if i == 0:
        return Stage("positions")
    return LN_POST if i == n_layer else Stage(f"block.{i - 1}.mlp_residual")
