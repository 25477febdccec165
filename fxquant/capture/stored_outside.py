"""Statements of functions that set globals, attributes of classes, or what globals hold."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from fxquant.capture.names_in_code import declared_global, root_of
from fxquant.capture.outer_state import Held
from fxquant.capture.parsed_files import tree_of
from fxquant.capture.shared_state import changed_in

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Store:
    """One of them.

    Attributes:
        name: what it sets, ``MODE`` or ``Block.steps``; ``.steps`` where the class is that of ``self``.
        function: name of the function that it is in.
        file, line: where it is.
    """

    name: str
    function: str
    file: str
    line: int

    def sets(self, item: Held) -> bool:
        """Whether it sets something, as far as its name tells."""
        return item.name.endswith(self.name) if self.name.startswith(".") else item.name == self.name


def stores_in(file: str) -> list[Store]:
    """Those of the functions and methods of a file."""
    tree = tree_of(file)
    return [] if tree is None else [Store(name, function, file, line) for name, function, line in _set_in(tree)]


@lru_cache(maxsize=64)
def _set_in(tree: ast.Module) -> tuple[tuple[str, str, int], ...]:
    functions = (node for node in ast.walk(tree) if isinstance(node, _Function))
    return tuple((name, function.name, line) for function in functions for name, line in _set_by(function))


def _set_by(function: _Function) -> Iterator[tuple[str, int]]:
    nodes = list(ast.walk(function))
    outer = declared_global(function)
    names = [node for node in nodes if isinstance(node, ast.Name)]
    arguments = {item.arg for item in nodes if isinstance(item, ast.arg)}
    local = ({node.id for node in names if not isinstance(node.ctx, ast.Load)} | arguments) - outer
    for node in nodes:
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Name) and node.id in outer and not isinstance(node.ctx, ast.Load):
            yield node.id, line
        elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            owner = ast.unparse(node.value)
            if owner in ("cls", "type(self)", "self.__class__"):
                yield f".{node.attr}", line
            elif isinstance(node.value, ast.Name) and owner not in local:
                yield from ((name, line) for name in (owner, f"{owner}.{node.attr}"))
        else:
            changed = root_of(changed_in(node, True))
            if changed and changed not in local:
                yield changed, line
