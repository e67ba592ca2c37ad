"""The model's parts, each computed by the function in its slot.

That holds for a part that is as the model built it. A part that a user changed - an adapter,
another module, a quantised or offloaded one, a hook, another `forward` - is called as a module, so
that the change takes effect. The function in the slot is not used for it, and a warning says so if
that function is not ours.

    # B batch  C channels in  F frames  T positions  S state  O features out
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from . import ops

# To notice when a library replaces `forward` on the class itself.
FORWARD: dict[type[nn.Module], Callable[..., Any]] = {
    kind: kind.forward for kind in (nn.Linear, nn.LayerNorm, nn.Conv1d)
}
TYPES = {Tensor, nn.Parameter, type(None)}  # of weights; None is the bias of k


def linear(x: Tensor, part: nn.Linear) -> Tensor:
    """x (..., S) -> (..., O)"""
    if fills("linear", plain(nn.Linear, part)):
        return ops.current().linear(x, part.weight, part.bias)
    return part(x)


def layer_norm(x: Tensor, part: nn.LayerNorm) -> Tensor:
    """x (..., S) -> (..., S)"""
    if fills("layer_norm", plain(nn.LayerNorm, part)):
        return ops.current().layer_norm(x, part.weight, part.bias)
    return part(x)


def conv1d(x: Tensor, part: nn.Conv1d) -> Tensor:
    """x (B, C, F) -> (B, S, (F - 1) // stride + 1)"""
    if fills("conv1d", plain(nn.Conv1d, part)):
        return ops.current().conv1d(x, part.weight, part.bias, stride=part.stride[0])
    return part(x)


def qkv(x: Tensor, q: nn.Linear, k: nn.Linear, v: nn.Linear) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, T, S) -> q, k, v, each (B, T, S)"""
    if fills("qkv", plain(nn.Linear, q, k, v) and k.bias is None):
        return ops.current().qkv(x, q.weight, q.bias, k.weight, v.weight, v.bias)
    return linear(x, q), linear(x, k), linear(x, v)


def fills(slot: str, ours: bool) -> bool:
    """Return `ours`, whether to use the slot, and warn where a user's function goes unused."""
    if not ours and getattr(ops.current(), slot) is not getattr(ops.OURS, slot):
        warn_unused(slot)
    return ours


def warn_unused(slot: str) -> None:
    warnings.warn(
        f"the function in the slot {slot} is not used for a part of the encoder that was changed "
        "(an adapter, a hook, another module) or has to do more than the slot does (dropout, "
        "attention weights)",
        stacklevel=3,
    )


# A graph cannot warn: torch.compile runs this while it compiles. It is the mark that
# `torch.compiler.assume_constant_result` sets, which itself takes a second to import torch._dynamo.
vars(warn_unused)["_dynamo_marked_constant"] = True


def plain(kind: type[nn.Module], *parts: nn.Module) -> bool:
    """Are these parts of this kind, and as the model built them?"""
    return all(type(part) is kind and is_untouched(part) and is_usual(part) for part in parts)


def is_untouched(part: nn.Module) -> bool:
    """Would calling this part run its class's own `forward` and nothing else?"""
    return not (
        FORWARD.get(type(part)) is not type(part).forward
        or "forward" in part.__dict__
        or part._compiled_call_impl
        or part._forward_pre_hooks
        or part._forward_hooks
        or part._backward_pre_hooks
        or part._backward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_forward_hooks
        or torch_module._global_backward_pre_hooks
        or torch_module._global_backward_hooks
    )


def is_usual(part: nn.Module) -> bool:
    """Does this part have the settings that the op assumes, and weights of torch's own types?"""
    if isinstance(part, nn.LayerNorm) and (part.eps != ops.LAYER_NORM_EPS or part.bias is None):
        return False
    if isinstance(part, nn.Conv1d):
        settings = (part.kernel_size, part.padding, part.dilation, part.groups, part.padding_mode)
        if settings != ((3,), (1,), (1,), 1, "zeros") or part.bias is None:
            return False
    # A quantised or sharded weight is a tensor subclass. So is the stand-in that a tracer uses.
    return torch.compiler.is_compiling() or TYPES.issuperset(map(type, part._parameters.values()))
