"""The structure of each package: no import cycle, few levels, short files, small folders.

Imports inside functions and type-checking imports count too.
"""

import ast
from graphlib import TopologicalSorter

import pytest

from tests.conftest import CHECKOUT

LEVELS = {"melfront": 10, "encoder": 12, "parity": 11, "benchmarks": 14, "reference_data": 8}
PACKAGES = tuple(LEVELS)
FILES, LINES, FUNCTION = 12, 350, 50
DATA = {".safetensors", ".wav"}
KERNELS = CHECKOUT / "tests/benchmarks/kernels"  # data too: one cheat per file


def modules(package):
    """Dotted name -> file. A package's `__init__.py` has the name of the package."""
    files = sorted((CHECKOUT / package).rglob("*.py"))
    names = [file.relative_to(CHECKOUT).with_suffix("").parts for file in files]
    return {".".join(n).removesuffix(".__init__"): f for n, f in zip(names, files, strict=True)}


def imported(name, file, known):
    """The modules of the same package that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: None if file.name == "__init__.py" else -1]
            above = base[: len(base) - node.level + 1] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found.add(inner if inner in known else source)
    return found & known - {name}


@pytest.fixture(params=PACKAGES)
def package(request):
    return request.param


def test_no_import_cycle_and_few_levels(package):
    files = modules(package)
    graph = {name: imported(name, file, set(files)) for name, file in files.items()}
    graph[package] = set()  # __init__ imports public names lazily, from any level
    level = {}
    for name in TopologicalSorter(graph).static_order():  # raises CycleError
        level[name] = 1 + max((level[other] for other in graph[name]), default=0)
    assert max(level.values()) <= LEVELS[package], sorted(level, key=level.__getitem__)[-3:]


def test_files_and_functions_are_short(package):
    for name, file in modules(package).items():
        text = file.read_text("utf-8")
        assert text.count("\n") <= LINES, name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < FUNCTION, f"{name}.{node.name}"


@pytest.mark.parametrize("package", [*PACKAGES, "tests"])
def test_folders_are_small(package):
    folders = {file.parent for file in modules(package).values()} - {KERNELS}
    for folder in folders:
        files = [f for f in folder.iterdir() if f.is_file() and f.suffix not in DATA]
        assert len(files) <= FILES, folder


def test_tests_are_short():
    for name, file in modules("tests").items():
        assert file.read_text("utf-8").count("\n") <= LINES, name


def test_class_names_are_unique(package):
    names = [
        node.name
        for file in modules(package).values()
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    assert len(names) == len(set(names)), sorted(names)
