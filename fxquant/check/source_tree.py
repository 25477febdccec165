"""The user's source as syntax trees: from a place in a file to the expression and the statement that stand there."""

from __future__ import annotations

import ast
import functools
import itertools
import linecache
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

Function = ast.FunctionDef | ast.AsyncFunctionDef


def own_nodes(function: Function | ast.Lambda) -> Iterator[ast.AST]:
    """The nodes of a function that run when it is called: not those of functions and lambdas inside it."""
    body = function.body if isinstance(function.body, list) else [function.body]
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop(0)
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)


@dataclass(frozen=True)
class Span:
    """A stretch of source: lines from 1, columns in bytes from 0, as ``ast`` and code objects count them."""

    line: int
    end_line: int
    column: int
    end_column: int


class SourceFile:
    """One file, parsed.

    Attributes:
        path: as code objects name it.
        tree: its syntax tree, None when there is no source or it does not parse.
    """

    def __init__(self, path: str) -> None:
        linecache.checkcache(path)
        self.path = path
        self.lines = linecache.getlines(path)
        self.text = "".join(self.lines)
        self._syntax = _syntax_of(self.text)
        self.tree = self._syntax.tree

    def line(self, number: int) -> str:
        """The text of a line without its indentation, "" when there is none."""
        return self.lines[number - 1].strip() if 0 < number <= len(self.lines) else ""

    def indentation(self, number: int) -> str:
        """The white space a line starts with."""
        text = self.lines[number - 1]
        return text[: len(text) - len(text.lstrip())]

    def parent(self, node: ast.AST) -> ast.AST | None:
        """The node that ``node`` is part of."""
        return self._syntax.parents.get(id(node))

    def parents(self, node: ast.AST) -> Iterator[ast.AST]:
        """The nodes that ``node`` is part of, innermost first."""
        above = self.parent(node)
        while above is not None:
            yield above
            above = self.parent(above)

    def source_of(self, node: ast.AST) -> str:
        """The text of ``node`` as the user wrote it."""
        first, last = getattr(node, "lineno", 0), getattr(node, "end_lineno", 0) or 0
        if not 0 < first <= last <= len(self.lines):
            return ast.unparse(node)
        lines = [line.encode() for line in self.lines[first - 1 : last]]  # columns count bytes
        lines[-1] = lines[-1][: node.end_col_offset]  # type: ignore[attr-defined]
        lines[0] = lines[0][node.col_offset :]  # type: ignore[attr-defined]
        return b"".join(lines).decode()

    def expression_at(self, span: Span) -> ast.expr | None:
        """The expression that fills exactly ``span``."""
        nodes = [node for node in self._around(span.line) if isinstance(node, ast.expr)]
        calls = (node for node in nodes if isinstance(node, ast.Call) and _ends_a_chain(node, span))
        return next((node for node in nodes if _span(node) == span), None) or next(calls, None)

    def expression_like(self, line: int, text: str) -> ast.expr | None:
        """The outermost expression on ``line`` that reads like ``text``."""
        wanted = _parse(f"({text.strip()})", "eval")
        if wanted is None or self.tree is None:
            return None
        meaning = ast.unparse(wanted)
        nodes = (node for node in self._around(line) if isinstance(node, ast.expr))
        return next((node for node in nodes if ast.unparse(node) == meaning), None)

    def statement_at(self, line: int, column: int | None = None) -> ast.stmt | None:
        """The innermost statement that ``line`` belongs to: of several the first, or the one at ``column``."""
        found = self.statements_at(line)
        at = [node for node in found if column is not None and _covers(node, line, column)]
        return next(iter((*at, *found)), None)

    def statements_at(self, line: int) -> list[ast.stmt]:
        """The innermost statements that ``line`` belongs to: ``a = 1; b = 2`` are two."""

        def size(node: ast.stmt) -> tuple[int, int, bool]:
            return node.lineno, -(node.end_lineno or 0), not isinstance(node, (Function, ast.ClassDef))

        around = [node for node in self._around(line) if isinstance(node, ast.stmt)]
        return [node for node in around if size(node) == max(map(size, around))]

    def statement_of(self, node: ast.AST) -> ast.stmt | None:
        """The innermost statement that contains ``node``."""
        if isinstance(node, ast.stmt):
            return node
        return next((above for above in self.parents(node) if isinstance(above, ast.stmt)), None)

    def function_of(self, node: ast.AST) -> Function | None:
        """The innermost function that contains ``node``."""
        return next((above for above in self.parents(node) if isinstance(above, Function)), None)

    def function_at(self, code: CodeType) -> Function | None:
        """The function that ``code`` was compiled from."""
        return self._syntax.functions.get((code.co_name, code.co_firstlineno))

    def lambda_at(self, code: CodeType) -> ast.Lambda | None:
        """The lambda that ``code`` was compiled from."""
        if code.co_name != "<lambda>":
            return None
        spans = [span for index in range(len(code.co_code) // 2) if (span := span_of(code, 2 * index)) is not None]
        around = [node for node in self._around(code.co_firstlineno) if isinstance(node, ast.Lambda)]
        holding = [node for node in around if all(_holds(node.body, span) for span in spans if span.end_column)]
        return holding[-1] if holding else None

    def _around(self, line: int, within: ast.AST | None = None) -> Iterator[ast.AST]:
        """The nodes that a line belongs to, outer ones before inner ones."""
        above = within or self.tree
        for node in ast.iter_child_nodes(above) if above is not None else ():
            first, last = getattr(node, "lineno", line), getattr(node, "end_lineno", line)
            if _first_line(node, first) <= line <= (last or first):
                if first <= line and hasattr(node, "lineno"):
                    yield node
                yield from self._around(line, node)


@dataclass(frozen=True)
class _Syntax:
    """A parsed text: its tree, the node above each by id, and its functions by name and first line."""

    tree: ast.AST | None
    parents: dict[int, ast.AST]
    functions: dict[tuple[str, int], Function]


@functools.lru_cache(maxsize=64)
def _syntax_of(text: str) -> _Syntax:
    """Parse a text; the same text is parsed once, whichever models are checked."""
    found = _Syntax(_parse(text), {}, {})
    for node in ast.walk(found.tree) if found.tree is not None else ():
        found.parents.update({id(child): node for child in ast.iter_child_nodes(node)})
        if isinstance(node, Function):
            found.functions.setdefault((node.name, _first_line(node, node.lineno)), node)
    return found


class Sources:
    """Parsed files, each read once."""

    def __init__(self) -> None:
        self._files: dict[str, SourceFile] = {}

    def file(self, path: str) -> SourceFile:
        """The file at ``path``; empty when there is no source."""
        if path not in self._files:
            self._files[path] = SourceFile(path)
        return self._files[path]


def span_of(code: CodeType, instruction: int) -> Span | None:
    """What an instruction of ``code`` computes, as a place in its source; None when it carries no columns."""
    found = next(itertools.islice(code.co_positions(), max(instruction, 0) // 2, None), None)
    if found is None:
        return None
    line, end_line, column, end_column = found
    if line is None or end_line is None or column is None or end_column is None:
        return None
    return Span(line, end_line, column, end_column)


def _first_line(node: ast.AST, otherwise: int) -> int:
    """The line a node begins at, with its decorators."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([otherwise, *(item.lineno for item in decorators)])


def _holds(node: ast.expr, span: Span) -> bool:
    """Whether a stretch of source is within ``node``."""
    whole = _span(node)
    first, last = (whole.line, whole.column), (whole.end_line, whole.end_column)
    return first <= (span.line, span.column) and (span.end_line, span.end_column) <= last


def _ends_a_chain(node: ast.Call, span: Span) -> bool:
    """Whether a stretch of source is the end of ``x.a().b()`` on several lines: instructions begin at the last name."""
    whole = _span(node)
    is_on_several = isinstance(node.func, ast.Attribute) and whole.line < span.line
    return is_on_several and (whole.end_line, whole.end_column) == (span.end_line, span.end_column)


def _covers(node: ast.stmt, line: int, column: int) -> bool:
    """Whether a place in the source is within ``node``."""
    end = node.end_lineno or node.lineno, node.end_col_offset or 0
    return (node.lineno, node.col_offset) <= (line, column) < end


def _span(node: ast.expr) -> Span:
    return Span(node.lineno, node.end_lineno or 0, node.col_offset, node.end_col_offset or 0)


def _parse(text: str, mode: str = "exec") -> ast.AST | None:
    try:
        return ast.parse(text, mode=mode)
    except (SyntaxError, ValueError):
        return None
