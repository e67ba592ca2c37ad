"""Check the shape comments of source code against the actual arrays.

    report = shapes.check(lambda: melfront.log_mel(clip), files=[numpy_backend.__file__])
    assert not report.wrong and not report.unchecked

A trailing comment such as `# (B, T, S)` on a statement inside a function gives the shape of the
value that the statement assigns, returns or yields. An entry is a number, a letter or name, or a
product or sum of these: `2K`, `L + 400`, `H * D`. The first comment that a call reaches binds a
letter for the rest of that call. A leading `...` stands for any number of axes; `each` after the
shape applies it to every item of a tuple or list. In `# (C, N) -> (N,)`, only the last shape is
checked. One axis is written as in Python, `(N,)`, and words may follow: `# (N,) float64`.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

SHAPE = re.compile(r"#\s*(?:\([^()]*\)\s*->\s*)?\(([^()]*,[^()]*|)\)(\s+each\b)?(?:[\s,;:].*)?")


@dataclass(frozen=True)
class Comment:
    """A shape comment and the lines of its statement."""

    file: str
    line: int
    text: str
    dims: tuple[str, ...]
    each: bool
    first: int
    last: int
    returns: bool
    targets: tuple[CodeType, ...]  # expressions for the assigned values

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}: {self.text}"


@dataclass
class Report:
    checked: Counter[Comment] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)  # comments that no call reached


def to_python(entry: str) -> str | None:
    """An entry as a Python expression, `2K` as `2*K`; None for anything else."""
    expression = re.sub(r"\b(\d+)\s*([A-Za-z_])", r"\1*\2", entry.strip())
    try:
        tree = ast.parse(expression, mode="eval").body
    except SyntaxError:
        return None
    nodes = (ast.BinOp, ast.operator, ast.Name, ast.expr_context)
    for node in ast.walk(tree):
        constant = node.value if isinstance(node, ast.Constant) else None
        if not isinstance(node, nodes) and not isinstance(constant, (int, type(...))):
            return None
    return expression


def statements(tree: ast.AST, inside: bool = False) -> Iterable[ast.stmt]:
    """The statements inside functions, including nested functions."""
    for node in ast.iter_child_nodes(tree):
        if inside and isinstance(node, ast.stmt):
            yield node
        function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        within = function or (inside and not isinstance(node, ast.ClassDef))
        yield from statements(node, within)


def span(statement: ast.stmt) -> tuple[int, int]:
    """First and last line of a statement, or of the header of a compound statement."""
    last = statement.end_lineno or statement.lineno
    body = getattr(statement, "body", None)
    if body:
        last = max(statement.lineno, min(last, body[0].lineno - 1))
    return statement.lineno, last


def comments(file: str) -> list[Comment]:
    """All shape comments of a source file. Raises ValueError if one cannot be checked."""
    source = Path(file).read_text(encoding="utf-8")
    found = []
    spans = [(span(s), s) for s in statements(ast.parse(source))]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        match = SHAPE.fullmatch(token.string.strip()) if token.type == tokenize.COMMENT else None
        if match is None or not token.line[: token.start[1]].strip():
            continue
        line = token.start[0]
        around = [(s, node) for s, node in spans if s[0] <= line <= s[1]]
        dims = tuple(to_python(e) or "" for e in match[1].rstrip(", ").split(",") if match[1])
        if not around or "" in dims:
            continue  # prose, or a comment on a class field
        (first, last), node = max(around, key=lambda item: item[0])  # the innermost
        where = f"{file}:{line}: {token.string}"
        value = getattr(node, "value", None)
        returns = isinstance(node, ast.Return) or isinstance(value, ast.Yield)
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.For)):
            targets = [node.target]
        elif not returns:
            raise ValueError(f"{where}: a shape comment on a line that assigns nothing")
        targets = [item for t in targets for item in (t.elts if isinstance(t, ast.Tuple) else [t])]
        each = match[2] is not None
        if len(targets) > 1 and not each:
            raise ValueError(
                f"{where}: several things are assigned; say `each` if it holds for all"
            )
        code = tuple(compile(ast.unparse(t), file, "eval") for t in targets)
        text = token.string
        found.append(Comment(file, line, text, dims, each, first, last, returns, code))
    return found


def mismatch(comment: Comment, value: Any, bound: dict[str, int]) -> str | None:
    """A description of a wrong shape, or None. Binds letters that are new in this call."""
    shape = getattr(value, "shape", None)
    if shape is None:
        return f"{comment}: the value is a {type(value).__name__}, which has no shape"
    sizes, dims = tuple(int(size) for size in shape), comment.dims
    if dims[:1] == ("...",):
        dims = dims[1:]
        sizes = sizes[max(0, len(sizes) - len(dims)) :]
    if len(sizes) != len(dims):
        return f"{comment}: the shape is {tuple(shape)}"
    for dim, size in zip(dims, sizes, strict=True):
        names = {n.id for n in ast.walk(ast.parse(dim, mode="eval")) if isinstance(n, ast.Name)}
        new = names - bound.keys()
        if len(new) == 1:  # solve for it: entries are linear in each letter
            (name,) = new
            at_0, at_1 = (eval(dim, {}, {**bound, name: x}) for x in (0, 1))
            if at_1 != at_0 and (size - at_0) % (at_1 - at_0) == 0:
                bound[name] = int((size - at_0) // (at_1 - at_0))
                continue
        if new or eval(dim, {}, dict(bound)) != size:
            known = ", ".join(f"{n} = {bound[n]}" for n in sorted(names & bound.keys()))
            return f"{comment}: the shape is {tuple(shape)}" + (f" where {known}" if known else "")
    return None


class Call:
    """Trace one call of a function: its bound letters, and the statement now running."""

    def __init__(self, by_line: dict[int, Comment], report: Report) -> None:
        self.by_line, self.report = by_line, report
        self.bound: dict[str, int] = {}
        self.pending: Comment | None = None

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Call:
        pending = self.pending
        if event == "line":
            # A multi-line statement can return to its first line: it ends when a line outside runs.
            line = frame.f_lineno
            again = pending is not None and pending.first < pending.last
            if not (again and pending and pending.first <= line <= pending.last):
                self.finish(frame)
                self.pending = self.by_line.get(line)
        elif event == "return":
            if pending is not None and pending.returns:
                self.check([arg])
                self.pending = None
            else:
                self.finish(frame)
        elif event == "exception":
            self.pending = None  # the statement assigned nothing
        return self

    def finish(self, frame: FrameType) -> None:
        pending, self.pending = self.pending, None
        if pending is not None and not pending.returns:
            names = {**frame.f_globals, **frame.f_locals}
            values = []
            for target in pending.targets:
                try:
                    values.append(eval(target, names))
                except NameError:  # a loop that did not run
                    return
            self.pending = pending
            self.check(values)
            self.pending = None

    def check(self, values: list[Any]) -> None:
        comment = self.pending
        assert comment is not None
        if comment.each and len(values) == 1 and isinstance(values[0], (tuple, list)):
            values = list(values[0])
        for value in values:
            problem = mismatch(comment, value, self.bound)
            if problem is not None:
                self.report.wrong.append(problem)
        self.report.checked[comment] += 1


def check(function: Callable[[], object], files: Iterable[str]) -> Report:
    """Run `function()` and check every shape comment in `files` that it reaches."""
    report = Report()
    by_file: dict[str, dict[int, Comment]] = {}
    everything = []
    for file in files:
        by_line = by_file.setdefault(str(file), {})
        for comment in comments(str(file)):
            everything.append(comment)
            for line in range(comment.first, comment.last + 1):
                by_line[line] = comment

    def begin(frame: FrameType, _event: str, _arg: Any) -> Call | None:
        code = frame.f_code
        by_line = by_file.get(code.co_filename)
        # Skip comprehensions and lambdas: they are only parts of a statement.
        return None if by_line is None or code.co_name.startswith("<") else Call(by_line, report)

    before = sys.gettrace()
    sys.settrace(begin)
    try:
        function()
    finally:
        sys.settrace(before)
    report.unchecked = [str(comment) for comment in everything if comment not in report.checked]
    return report
