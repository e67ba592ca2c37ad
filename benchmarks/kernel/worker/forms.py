"""The form that a result must have. Imports the standard library alone."""

from __future__ import annotations

from typing import Any

from ..reasons import Refused

# What a plain torch.Tensor may be in disguise.
LAZY = {
    "negated later": lambda torch, t: t.is_neg(),
    "conjugated later": lambda torch, t: t.is_conj(),
    "zero without memory": lambda torch, t: t._is_zerotensor(),
    "a functional one": lambda torch, t: torch._is_functional_tensor(t),
    "copied when written": lambda torch, t: torch._C._is_cow_tensor(t),
    "batched": lambda torch, t: torch._C._functorch.is_functorch_wrapped_tensor(t),
}


def check_form(got: Any, spec: dict[str, Any], right: Any) -> None:
    """Refuse an array of another class, shape or dtype."""
    if type(got) is not right:
        kind = f"{type(got).__module__}.{type(got).__name__}"
        wanted = f"{right.__module__}.{right.__name__}"
        text = f"returns {kind}, expected {wanted} itself: nothing lazy, no subclass"
        raise Refused("TYPE", text)
    if list(got.shape) != spec["shape"]:
        raise Refused("SHAPE", f"returns {tuple(got.shape)}, expected {tuple(spec['shape'])}")
    dtype = str(got.dtype).removeprefix("torch.")
    if dtype != spec["dtype"]:
        raise Refused("DTYPE", f"returns {dtype}, expected {spec['dtype']}")


def check_tensor(got: Any, torch: Any, device: str) -> None:
    """Refuse a tensor of another layout or device, or with a method of its own."""
    if got.layout != torch.strided:
        raise Refused("TYPE", f"returns a {got.layout} tensor, expected a dense one")
    if got.device.type != device.partition(":")[0]:
        raise Refused("DEVICE", f"returns it on {got.device}, expected {device}")
    if lazy := [name for name, is_so in LAZY.items() if is_so(torch, got)]:
        raise Refused("TYPE", f"returns a tensor that is {lazy[0]}: it is computed when it is read")
    # torch.compile sets attributes of its own; one of a method's name would be called.
    if own := sorted(set(vars(got)) & set(dir(torch.Tensor))):
        raise Refused("TYPE", f"returns a tensor on which it has set {', '.join(own)}")
