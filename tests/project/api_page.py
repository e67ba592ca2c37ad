"""docs/api.md, from the public docstrings: `python -m tests.project.api_page` writes it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from tests.conftest import CHECKOUT

PAGE = CHECKOUT / "docs" / "api.md"
PACKAGES = ("melfront", "melfront.feature_extractor", "melfront.encoder", "melfront.parity")
HEAD = """# API

Every public name, with its docstring, as written by `python -m tests.project.api_page`.
"""


def signature(name: str, function: Any) -> str:
    """The signature on one line, or with one argument per line if it is too long."""
    shown, previous = [], None
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and previous in (None, 1):
            shown.append("*")
        default = getattr(parameter.default, "__name__", None)  # repr would print an address
        text = str(parameter.replace(annotation=parameter.empty, default=parameter.empty))
        text += f": {parameter.annotation}" if parameter.annotation is not parameter.empty else ""
        if parameter.default is not parameter.empty:
            text += f" = {default or repr(parameter.default)}"
        shown.append(text)
        previous = int(parameter.kind)
    result = inspect.signature(function).return_annotation
    result = "" if result is inspect.Signature.empty else f" -> {result}"
    line = f"{name}({', '.join(shown)}){result}"
    if len(line) <= 100:
        return line
    return "\n".join([f"{name}(", *(f"    {text}," for text in shown), f"){result}"])


def block(text: str | None, where: str) -> str:
    if not text:
        raise ValueError(f"{where} has no docstring")
    return f"```text\n{inspect.cleandoc(text)}\n```\n"


def function(name: str, value: Any, where: str) -> str:
    if not value.__doc__:
        raise ValueError(f"{where} has no docstring")
    text = "\n".join(f"    {line}".rstrip() for line in inspect.cleandoc(value.__doc__).split("\n"))
    return f"```text\n{signature(name, value)}\n\n{text}\n```\n"


def constant(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"`{name}`: {', '.join(f'`{key}`' for key in value)}\n"
    return f"`{name} = {value!r}`\n"


def members(module: ModuleType) -> list[str]:
    """A module's `__all__`, or the functions and classes that it defines, in source order."""
    return getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if name[0] != "_"
        and (inspect.isroutine(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    ]


def methods(kind: type) -> list[str]:
    """The documented methods of a class, without functions that are defaults of its fields."""
    return [
        name
        for name in vars(kind)
        if name[0] != "_"
        and inspect.isroutine(getattr(kind, name))
        and getattr(getattr(kind, name), "__qualname__", "") == f"{kind.__name__}.{name}"
        and getattr(kind, name).__doc__
    ]


def described(module: ModuleType, level: int) -> Iterator[str]:
    inner: list[ModuleType] = []
    for name in members(module):
        value, where = getattr(module, name), f"{module.__name__}.{name}"
        if isinstance(value, ModuleType):
            inner.append(value)
        elif not callable(value):
            yield constant(name, value)
        elif not inspect.isclass(value):
            if value.__doc__ or level == 3:  # internal functions may lack one
                yield f"{'#' * level} {name}\n"
                yield function(name, value, where)
        else:
            yield f"{'#' * level} {name}\n"
            yield block(value.__doc__, where)
            for method in methods(value):
                yield function(f"{name}.{method}", getattr(value, method), f"{where}.{method}")
    for value in inner:
        yield f"{'#' * level} {value.__name__}\n"
        yield block(value.__doc__, value.__name__)
        yield from described(value, level + 1)


def page() -> str:
    parts = [HEAD]
    for name in PACKAGES:
        package = import_module(name)
        parts += [f"## {name}\n", block(package.__doc__, name), *described(package, 3)]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), "utf-8")
