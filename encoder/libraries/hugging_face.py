"""Our encoder inside transformers' Whisper models.

    model = encoder.for_transformers("openai/whisper-large-v3")  # or a model that you have loaded

The modules, their names and their weights stay transformers' own; what they compute becomes ours.
So whatever works on modules does as before: saving, adapters, freezing, checkpointing, offloading.
"""

from __future__ import annotations

import os
from types import MethodType
from typing import Any

from torch import nn


def for_transformers(model: Any, **options: Any) -> Any:
    """A Whisper model of transformers in which our encoder computes.

    model: a WhisperForConditionalGeneration, WhisperModel, WhisperForAudioClassification or
        WhisperEncoder of transformers, or a module around one, such as PEFT's. It is changed in
        place: the modules of its encoder change their classes, and nothing else. Or a local folder
        or a name on the Hugging Face Hub, which transformers loads.
    options: for a folder or a name, those of transformers' `from_pretrained`.

    Returns the model; a second call changes nothing. Its encoder takes what transformers' takes and
    returns the same BaseModelOutput; features (B, M, F) become hidden states (B, T, S). Parameters
    keep their names, dtype and device, so `save_pretrained` writes what transformers alone reads.
    With `output_attentions=True`, attention dropout or `attn_implementation="eager"`, attention is
    the slots `scores` and `softmax`; otherwise, and if "eager" meets a function of yours, it is the
    slot `attention`.

    Raises TypeError for a module without such an encoder or with one whose forward was replaced,
    ValueError for another activation than GELU and for the name of another model, ImportError
    without transformers, and what `from_pretrained` raises.
    """
    if not isinstance(model, nn.Module):
        model = load(os.fspath(model), **options)
    elif options:
        raise TypeError(f"options {', '.join(options)} are for loading; this model is loaded")
    theirs = transformers_whisper()
    encoders = [part for part in model.modules() if isinstance(part, theirs.WhisperEncoder)]
    if not encoders:
        raise TypeError(
            f"{type(model).__name__} contains no Whisper encoder of transformers; pass a "
            "WhisperForConditionalGeneration, WhisperModel or WhisperForAudioClassification"
        )
    for encoder in encoders:
        install(encoder)
    return model


def transformers_whisper() -> Any:
    try:
        from transformers.models.whisper import modeling_whisper
    except ModuleNotFoundError as error:
        raise ImportError(
            "for_transformers needs transformers: pip install 'melfront[transformers]'"
        ) from error
    return modeling_whisper


def load(name: str, **options: Any) -> nn.Module:
    """The model of a checkpoint, of the class that its config names."""
    theirs = transformers_whisper()
    config = theirs.WhisperConfig.get_config_dict(name, **options)[0]
    kind = (config.get("architectures") or ["WhisperForConditionalGeneration"])[0]
    if config.get("model_type") != "whisper" or not hasattr(theirs, kind):
        raise ValueError(
            f"{name} is a {kind} of type {config.get('model_type')}; expected a Whisper model"
        )
    return getattr(theirs, kind).from_pretrained(name, **options)


def install(encoder: Any) -> None:
    """Give an encoder's modules the classes of `whisper_modules`: all of them, or raise."""
    from . import whisper_modules

    activation = encoder.config.activation_function
    if activation != "gelu":
        raise ValueError(f"the activation is {activation}; expected gelu, which ours computes")
    kinds: list[tuple[Any, Any]] = [(encoder, whisper_modules.TransformersEncoder)]
    for layer in encoder.layers:
        kinds.append((layer, whisper_modules.WhisperEncoderLayer))
        kinds.append((layer.self_attn, whisper_modules.WhisperAttention))
    for module, kind in kinds:
        own = type(module).forward
        # accelerate's hooks keep the forward that they wrap, and leave it there when they go.
        kept = vars(module).get("_old_forward", vars(module).get("forward"))
        if (
            type(module) not in (kind, kind.__base__)
            or getattr(kept, "__func__", kept or own) != own
        ):
            raise TypeError(
                f"a {kind.__name__} is a {type(module).__name__} or has another forward; pass the "
                "model as transformers built it, and change it afterwards"
            )
    for module, kind in kinds:
        module.__class__ = kind
        if "_old_forward" in vars(module):
            module._old_forward = MethodType(kind.forward, module)
        else:
            vars(module).pop("forward", None)
