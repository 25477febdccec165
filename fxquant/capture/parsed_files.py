"""The source of files, parsed once: where in it something is."""

from __future__ import annotations

import ast
import linecache
from dataclasses import dataclass
from functools import cached_property
from types import CodeType

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class _Parsed:
    """A file.

    Attributes:
        lines: of it. tree: what they define, None where that cannot be told.
    """

    lines: list[str]
    tree: ast.Module | None

    @cached_property
    def definitions(self) -> dict[str, list[Function | ast.ClassDef]]:
        """Functions and classes, by name, as ``ast.walk`` meets them."""
        found: dict[str, list[Function | ast.ClassDef]] = {}
        for node in ast.walk(self.tree) if self.tree is not None else ():
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.setdefault(node.name, []).append(node)
        return found


_files: dict[str, _Parsed] = {}


def _parsed(file: str) -> _Parsed:
    lines = linecache.getlines(file)  # the same list as long as the file is the same
    known = _files.get(file)
    if known is None or known.lines is not lines:
        known = _files[file] = _Parsed(lines, _parse("".join(lines)) if lines else None)
    return known


def _parse(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except SyntaxError:
        return None


def tree_of(file: str) -> ast.Module | None:
    """The parsed source of a file, None when there is none."""
    return _parsed(file).tree


def function_of(code: CodeType) -> Function | None:
    """The definition of a function in the source of its file."""
    for node in _parsed(code.co_filename).definitions.get(code.co_name, ()):
        if not isinstance(node, ast.ClassDef):
            first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
            if code.co_firstlineno in (first, node.lineno):
                return node
    return None


def classes_named(file: str, name: str) -> list[ast.ClassDef]:
    """The definitions of classes of a name in a file."""
    return [node for node in _parsed(file).definitions.get(name, ()) if isinstance(node, ast.ClassDef)]


def path_to(tree: ast.AST, where: tuple[int, int, int, int]) -> list[ast.AST]:
    """Nodes from ``tree`` down to the innermost one that holds a position."""
    first, last, start, end = where
    path: list[ast.AST] = []
    node: ast.AST | None = tree
    while node is not None:
        path.append(node)
        node = next((child for child in ast.iter_child_nodes(node) if holds(child, first, last, start, end)), None)
    return path


def holds(node: ast.AST, first: int, last: int, start: int, end: int) -> bool:
    """Whether a node is around a position: first and last line, first and last column."""
    begin = getattr(node, "lineno", None)
    if begin is None:  # arguments, comprehensions and operators have no place of their own: look inside
        return any(holds(child, first, last, start, end) for child in ast.iter_child_nodes(node))
    finish, left, right = node.end_lineno, node.col_offset, node.end_col_offset  # type: ignore[attr-defined]
    return (begin, left) <= (first, start) and (last, end) <= (finish, right)
