"""The sizes of a case by letter, and kernels that are for some sizes alone.

A kernel's file may declare `SHAPES = {"T": 1500, "D": (64, 80)}`: the sizes that it takes, one or
several, by the letters in the slot's docstring, or by the name of an argument that is a number.
"""

from __future__ import annotations

from torch import Tensor

from ..reasons import Refused
from .base import Slot
from .inputs import Case
from .signature import Shapes, axes, named, parameters


def sizes_of(slot: Slot, case: Case) -> dict[str, set[int]]:
    """The sizes of a case by letter, and its numbers by the argument's name."""
    found: dict[str, set[int]] = {}
    names = [parameter.partition("=")[0] for parameter in parameters(slot.call)]
    given = {**dict(zip(names, case.args, strict=False)), **case.kwargs}
    forms = axes(slot.paragraphs[-1])
    for name, value in given.items():
        pairs = [(name, value)] if type(value) is int else []
        if isinstance(value, Tensor):
            pairs = named(forms.get(name, []), tuple(value.shape))
        for letter, size in pairs:
            if not letter.isdigit():
                found.setdefault(letter, set()).add(size)
    return found


def letters(slot: Slot) -> list[str]:
    """What a kernel for this slot may declare."""
    forms = axes(slot.paragraphs[-1])
    axis = [letter for of_each in forms.values() for form in of_each for letter in form]
    others = parameters(slot.call)[1 + slot.weights :]
    numbers = [n for n in others if n not in forms and "=" not in n]
    return [n for n in dict.fromkeys([*axis, *numbers]) if n != "..." and not n.isdigit()]


def checked(slot: Slot, declared: dict[str, list[int]]) -> Shapes:
    """What a kernel has declared. Raises Refused for a letter that the slot does not have."""
    if unknown := [letter for letter in declared if letter not in letters(slot)]:
        raise Refused(
            "SIGNATURE",
            f"SHAPES has {', '.join(unknown)}; {slot.name} has {', '.join(letters(slot))}",
        )
    return {letter: tuple(sizes) for letter, sizes in declared.items()}


def fits(slot: Slot, case: Case, shapes: Shapes) -> bool:
    """Whether a kernel that declares these shapes takes this case."""
    if not shapes:
        return True
    found = sizes_of(slot, case)
    return all(letter in found and found[letter] <= set(s) for letter, s in shapes.items())


def words(shapes: Shapes) -> str:
    """Such as "T = 1500, D = 64 or 80"."""
    return ", ".join(f"{k} = {' or '.join(map(str, sizes))}" for k, sizes in shapes.items())


def declaration(shapes: Shapes) -> str:
    """The line that declares them in a kernel's file."""
    entries = (f'"{k}": {s[0] if len(s) == 1 else s}' for k, s in shapes.items())
    return f"SHAPES = {{{', '.join(entries)}}}"
