"""`melfront benchmarks encoder`: hidden states, ours and those of other libraries.

Weights come from the formula: times do not depend on them. Sizes above base run with four blocks.

    # B batch  M mel bins  F frames  T positions  S state  H heads  D head_dim
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import melfront
from melfront import encoder
from melfront.command import scratch_folder
from melfront.encoder import EncoderConfig, WhisperEncoder, checkpoint
from melfront.encoder.export.graph import FromFeatures, capture
from melfront.encoder.export.write import write_onnx
from melfront.encoder.model import Block

from ..machine import installed
from ..race import least, race
from .own_process import in_process, peak
from .results import AGAIN, Row, Table, cores, errors

OURS = "melfront"
SDPA = "transformers, sdpa"
BF16 = ", bfloat16"
ROOF = "its products alone"
DEPTH = {"small": 4, "large-v3": 4}


def config(size: str) -> EncoderConfig:
    full = encoder.SIZES[size]
    return replace(full, n_audio_layer=DEPTH.get(size, full.n_audio_layer))


def features(dims: EncoderConfig, batch: int) -> Tensor:
    """Of the sample clip, (B, M, F); each clip of the batch starts somewhat later."""
    clip = melfront.load_audio("sample")
    clips = [clip[1009 * i :] for i in range(batch)]
    return torch.from_numpy(melfront.log_mel(clips, n_mels=dims.n_mels))


# --- the peers: each turns our model into a function `run(mel) -> (B, T, S)` ----------------------


class LastHiddenState(nn.Module):
    """Our encoder or transformers' as a module of one tensor to one tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, mel: Tensor) -> Tensor:
        out: Tensor = self.model(mel).last_hidden_state
        return out


def hf_config(dims: EncoderConfig, **more: Any) -> Any:
    from transformers import WhisperConfig

    return WhisperConfig(**{**dims.to_hf(), **more})


def hf_weights(model: WhisperEncoder) -> dict[str, Tensor]:
    return {checkpoint.hf_name(name): x for name, x in model.state_dict().items()}


def transformers(model: WhisperEncoder, attention: str = "sdpa") -> LastHiddenState:
    """transformers' WhisperEncoder around the same tensors."""
    from transformers.models.whisper.modeling_whisper import WhisperEncoder as Theirs

    with torch.device("meta"):
        theirs = Theirs(hf_config(model.config, attn_implementation=attention))
    theirs.load_state_dict(hf_weights(model), assign=True)
    return LastHiddenState(theirs.eval())


def openai(model: WhisperEncoder) -> nn.Module:
    from whisper.model import AudioEncoder

    c = model.config
    theirs = AudioEncoder(
        c.n_mels, c.n_audio_ctx, c.n_audio_state, c.n_audio_head, c.n_audio_layer
    ).eval()
    weights = model.state_dict()
    theirs.load_state_dict({checkpoint.openai_name(n): w for n, w in weights.items()})
    return theirs


def ctranslate2(model: WhisperEncoder, compute_type: str) -> Callable[[Tensor], Tensor]:
    """Converted by its own converter, which wants a decoder too: one small layer."""
    import ctranslate2 as ct
    from ctranslate2.converters.transformers import WhisperLoader
    from ctranslate2.specs.whisper_spec import WhisperSpec
    from transformers import WhisperForConditionalGeneration

    dims, heads = model.config, model.config.n_audio_head
    hf = WhisperForConditionalGeneration(
        hf_config(dims, decoder_layers=1, decoder_attention_heads=heads, decoder_ffn_dim=64)
    ).eval()
    hf.model.encoder.load_state_dict(hf_weights(model))
    spec, loader = WhisperSpec(dims.n_audio_layer, heads, 1, heads), WhisperLoader()
    loader.set_encoder(spec.encoder, hf.model.encoder)
    loader.set_decoder(spec.decoder, hf.model.decoder)
    loader.set_linear(spec.decoder.projection, hf.proj_out)
    spec.register_vocabulary([str(i) for i in range(hf.config.vocab_size)])
    for name in ("suppress_ids", "suppress_ids_begin", "lang_ids"):
        setattr(spec.config, name, [])
    spec.config.alignment_heads = [(0, 0)]
    spec.validate()
    spec.optimize(quantization=compute_type if compute_type != "float32" else None)
    with scratch_folder() as folder:
        spec.save(str(folder))
        theirs = ct.models.Whisper(
            str(folder), compute_type=compute_type, intra_threads=torch.get_num_threads()
        )

    def run(mel: Tensor) -> Tensor:
        out = theirs.encode(ct.StorageView.from_array(mel.numpy()))
        return torch.from_numpy(np.array(out))

    return run


def onnxruntime(model: WhisperEncoder) -> Callable[[Tensor], Tensor]:
    """What `melfront encoder export --part encoder` writes."""
    import onnxruntime as ort

    with scratch_folder() as folder:
        file = folder / "encoder.onnx"
        write_onnx(capture(FromFeatures(model)), file, {})
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda mel: torch.from_numpy(session.run(None, {"input_features": mel.numpy()})[0])


def bfloat16(make: Callable[[WhisperEncoder], Any], model: WhisperEncoder) -> Any:
    """The same in bfloat16: weights, activations and products."""
    run = make(copy.deepcopy(model).bfloat16())
    return lambda mel: run(mel.bfloat16())


def multiplies_bfloat16() -> bool:
    """Has this CPU instructions for it? Without them bfloat16 only takes longer."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


HF, CT = ("transformers",), ("ctranslate2", "transformers")
# Each with the packages it needs.
PEERS: dict[str, tuple[tuple[str, ...], Callable[[WhisperEncoder], Callable[[Tensor], Tensor]]]] = {
    OURS: ((), LastHiddenState),
    SDPA: (HF, transformers),
    SDPA + AGAIN: (HF, transformers),
    "transformers, eager": (HF, partial(transformers, attention="eager")),
    "openai-whisper": (("openai-whisper",), openai),
    "ctranslate2, float32": (CT, partial(ctranslate2, compute_type="float32")),
    "onnxruntime": (("onnxscript", "onnxruntime"), onnxruntime),
    "ctranslate2, int8": (CT, partial(ctranslate2, compute_type="int8")),
    OURS + BF16: ((), partial(bfloat16, LastHiddenState)),
    SDPA + BF16: (HF, partial(bfloat16, transformers)),
}
FEW = (OURS, SDPA, SDPA + AGAIN, OURS + BF16, SDPA + BF16)  # for the large sizes


def products(model: WhisperEncoder) -> Callable[[], object]:
    """Every product of one clip's forward pass, into memory that is already allocated."""
    c = model.config
    n_ctx, state, inner = c.n_audio_ctx, c.n_audio_state, c.n_audio_mlp
    heads, head_dim = c.n_audio_head, c.head_dim
    x, h = torch.randn(n_ctx, state), torch.randn(n_ctx, inner)
    q = torch.randn(heads, n_ctx, head_dim)
    scores, context = torch.empty(heads, n_ctx, n_ctx), torch.empty(heads, n_ctx, head_dim)
    mel, wide = torch.randn(1, c.n_mels, c.n_frames), torch.randn(1, state, c.n_frames)

    blocks = cast(list[Block], list(model.blocks))

    def run() -> None:
        functional.conv1d(mel, model.conv1.weight, padding=1)
        functional.conv1d(wide, model.conv2.weight, stride=2, padding=1)
        for block in blocks:
            attn, mlp = block.attn, block.mlp
            for part in (attn.q, attn.k, attn.v, attn.out, mlp.fc1):
                functional.linear(x, part.weight)
            functional.linear(h, mlp.fc2.weight)
            torch.bmm(q, q.mT, out=scores)
            torch.bmm(scores, q, out=context)

    return run


# --- the works ----------------------------------------------------------------------------------


@torch.inference_mode()
def one_size(size: str, seconds: float, threads: int, batch: int = 1) -> Table:
    """Every peer on one size of the encoder."""
    dims = config(size)
    model, mel = WhisperEncoder.from_formula(dims), features(dims, batch)
    names = [*PEERS] if size in ("tiny", "base") and batch == 1 else [*FEW]
    if batch > 1 or not multiplies_bfloat16():
        names = [name for name in names if not name.endswith(BF16)]
    peers = {n: PEERS[n][1](model) for n in names if installed(*PEERS[n][0])}
    weights = {name: x.double().numpy() for name, x in model.state_dict().items()}
    truth = encoder.oracle.encode(mel[0].double().numpy(), weights, dims)
    error = {name: errors(run(mel)[0].float().numpy(), truth) for name, run in peers.items()}
    runs: dict[str, Callable[[], object]] = {n: partial(run, mel) for n, run in peers.items()}
    if batch == 1:
        runs[ROOF] = products(model)
    times = race(runs, seconds)
    rows = [Row(name, spent, *error.get(name, ())) for name, spent in times.items()]
    depth = f", {dims.n_audio_layer} blocks" if size in DEPTH else ""
    title = f"encoder, {size}{depth}, batch {batch}, float32, {cores(threads)}"
    return Table(title, rows, [OURS])


@torch.inference_mode()
def forward_memory(size: str, name: str) -> int:
    """Bytes at the peak of a first forward pass, without the weights and the features."""
    dims = config(size)
    model, mel = WhisperEncoder.from_formula(dims), features(dims, 1)
    run = PEERS[name][1](model)
    before = peak(reset=True)
    run(mel)
    return peak() - before


def memory(seconds: float, threads: int) -> Table:
    """Peak memory of the first forward pass in a new process, the median of three."""
    where, lines = "melfront.benchmarks.speed.encoder:forward_memory", []
    for size in ("base", "large-v3"):
        held = []
        for name in (OURS, SDPA) if installed(*HF) else (OURS,):
            options = {"size": size, "name": name}
            each = [in_process(where, options, threads) for _ in range(least(3, seconds))]
            held.append(float(np.median(each)) / 1e6)
        theirs = "".join(f", {SDPA} {mb:.0f} MB, ratio {held[0] / mb:.2f}" for mb in held[1:])
        lines.append(f"{size}: {held[0]:.0f} MB{theirs}")
    title = f"encoder, peak memory of a forward pass without its weights, {cores(threads)}"
    return Table(title, [], [], lines)


def measure(work: str, seconds: float, threads: int) -> list[Table]:
    """Run a work in this process."""
    warnings.simplefilter("ignore")
    if work == "memory":
        return [memory(seconds, threads)]
    if work == "batch":
        return [one_size("tiny", seconds, threads, batch) for batch in (1, 2, 4, 8)]
    return [one_size(work, seconds, threads)]
