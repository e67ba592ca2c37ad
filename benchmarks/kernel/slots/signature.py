"""What a slot's docstring says of its arguments: their names, and the letters of their axes.

Imports the standard library alone.
"""

from __future__ import annotations

import re

# What a kernel declares: the sizes that it takes, by letter.
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
