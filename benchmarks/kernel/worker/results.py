"""The results of a kernel's calls: the form that they must have, and their way to the parent."""

from __future__ import annotations

from typing import Any

from ..reasons import Refused
from .memory import shared, shared_mapping, span

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


class Results:
    """Where the results of a case go, and the last ones.

    Nobody can hide a method on such an object: it has no room for one.
    """

    __slots__ = (
        *("arrays", "device", "gpu", "held", "hold"),
        *("libraries", "specs", "taken", "targets"),
    )

    def __init__(
        self,
        libraries: tuple[Any, Any],
        arrays: str,
        gpu: Any,
        device: str,
        specs: list[dict[str, Any]],
        targets: list[list[Any]],
        taken: list[tuple[int, int, str]],
        hold: int,
    ) -> None:
        """libraries: torch and NumPy; specs: of a call's results; targets: places for some calls';
        taken: memory that no result may share; hold: how many calls' results stay in use.
        """
        self.libraries, self.arrays, self.gpu, self.device = libraries, arrays, gpu, device
        self.specs, self.targets, self.taken, self.hold = specs, targets, taken, hold
        # The last results, which the next may not share memory with, as `copy_out` left them.
        self.held: list[tuple[list[list[Any]], list[tuple[int, int]], list[int]]] = []

    def copy_out(self, made: list[list[Any]], wanted: list[int]) -> dict[str, Any]:
        """Copy each call's results, as `formed` returns them, into the parent's memory.

        wanted: whose results go to the targets.
        """
        new = [array for arrays in made for array in arrays]
        spans = list(map(span, new))
        # Where an earlier result was: the kernel may have given it other memory since.
        earlier = [place for _, places, _ in self.held for place in places]
        taken = self.taken + [(*e, "an earlier result, which may be in use") for e in earlier]
        if memory := shared(spans, taken):
            raise Refused("ALIAS", f"returns the memory of {memory}")
        self.copy(made, wanted)
        # A kernel that fills `out` returns what it was given, which is new every time.
        self.held = [(made, spans, wanted), *self.held[: self.hold]]
        numpy = self.arrays == "numpy"
        return {"dense": all(a.flags.c_contiguous if numpy else a.is_contiguous() for a in new)}

    def copy_again(self, back: int) -> None:
        """Copy the results of a call out once more: of the last one, or of one so far back."""
        made, spans, wanted = self.held[back]
        if [span(array) for arrays in made for array in arrays] != spans:
            raise Refused("ALIAS", "gives a result other memory after it has returned it")
        if not self.gpu and shared_mapping(spans):
            raise Refused("ALIAS", "returns memory that it shares with other processes")
        self.copy(made, wanted)

    def copy(self, made: list[list[Any]], wanted: list[int]) -> None:
        """Copy results to their places in the parent's memory."""
        for n, targets in zip(wanted, self.targets, strict=False):
            for got, target in zip(made[n], targets, strict=True):
                if self.arrays == "numpy":
                    self.libraries[1].copyto(target.numpy(), got)
                elif self.gpu:
                    dense = got.contiguous()
                    self.gpu.wait()
                    self.gpu.copy_out(target.data_ptr(), dense.data_ptr(), target.nbytes)
                else:
                    target.copy_(got)

    def formed(self, result: Any, out: Any) -> list[Any]:
        """The arrays that a call returned, or filled if it returned nothing and had an `out`.

        Refuses one that has not the form that it must have.
        """
        if result is None and out is not None:
            result = out
        results = [result] if len(self.specs) == 1 else result
        if type(results) not in (tuple, list):
            raise Refused("TYPE", f"returns {type(result).__name__}, expected a tuple")
        if len(results) != len(self.specs):
            raise Refused("SHAPE", f"returns {len(results)} arrays, expected {len(self.specs)}")
        torch, numpy = self.libraries
        for got, spec in zip(results, self.specs, strict=True):
            check_form(got, spec, torch.Tensor if self.arrays == "torch" else numpy.ndarray)
            if self.arrays == "torch":
                check_tensor(got, torch, self.device)
        return list(results)
