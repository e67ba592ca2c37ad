"""The letters of a slot's shapes, and kernels that are for some sizes alone.

A kernel's file may declare `SHAPES = {"T": 1500, "D": (64, 80)}`: the sizes that it takes, one or
several, by the letters in the slot's docstring, or by the name of an argument that is a number.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import Tensor

from ..reasons import Refused

if TYPE_CHECKING:
    from .base import Slot
    from .inputs import Case

Shapes = dict[str, tuple[int, ...]]

# "q, k, v (B, H, T, D)" and "power (F, K) or (B, F, K)": arguments and the axes they may have.
ARGUMENTS = re.compile(r"(\w+(?:, \w+)*) (\([^()]*\)(?: or \([^()]*\))*)")


def parameters(call: str) -> list[str]:
    """The parameters in a text such as "linear(x, weight, bias=None)", with their defaults."""
    return call.partition("(")[2].rstrip(")").split(", ")


def axes(text: str) -> dict[str, list[list[str]]]:
    """Each array's axes by its name, in each of the forms that it may have, from a docstring."""
    found: dict[str, list[list[str]]] = {}
    for names, forms in ARGUMENTS.findall(text.partition("->")[0]):
        of_each = [re.findall(r"\.{3}|\w+", form) for form in re.findall(r"\(.*?\)", forms)]
        found |= dict.fromkeys(names.split(", "), of_each)
    return found


def named(forms: list[list[str]], sizes: tuple[int, ...]) -> list[tuple[str, int]]:
    """The letters of an array's axes, and their sizes."""
    full = [form for form in forms if "..." not in form]
    for form in full:
        if len(form) == len(sizes):
            # One clip without an axis for a batch is a batch of one.
            missing = {letter for other in full for letter in other} - set(form)
            return [*zip(form, sizes, strict=True), *((letter, 1) for letter in missing)]
    for _, *last in (form for form in forms if form[0] == "..." and len(form) <= len(sizes) + 1):
        return list(zip(last, sizes[len(sizes) - len(last) :], strict=True))
    return []


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
