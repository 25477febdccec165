"""Names whose values a function may still read behind some of its statements.

Before::

    if width % 4:
        pads = (0, -width % 4)      # nothing reads these pads behind here
        x = F.pad(x, pads)
    if height % 4:
        pads = (0, 0, 0, -height % 4)
        x = F.pad(x, pads)

After: behind the first ``if``, ``x`` and ``height`` are live, and ``pads`` is not: it is set before it is read.

Branches are followed; loops, ``try``, ``with`` and ``match`` count as reading all that is read in them, and as setting
nothing. Source: liveness of variables, as in A. W. Appel, "Modern Compiler Implementation", chapter 10.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import lru_cache

_LATER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.GeneratorExp, ast.ClassDef)  # read names when they run
_SIMPLE = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Assert, ast.Pass, ast.Import, ast.ImportFrom)
_READS_ALL = frozenset(("locals", "vars", "eval", "exec", "dir"))


def live_names(function: ast.FunctionDef, statements: Sequence[ast.stmt]) -> frozenset[str] | None:
    """Names that may be read behind statements that are one after the other in a function.

    Args:
        function: not changed.
        statements: of one block in it.

    Returns:
        The names; None where that cannot be told, as inside loops.
    """
    blocks = _blocks_around(function, statements[0])
    if blocks is None or _loads(function) & _READS_ALL:
        return None
    later = _read_later(function)
    live = later
    for depth, (block, index) in enumerate(blocks):
        behind = index + (len(statements) if depth == len(blocks) - 1 else 1)
        live = _before(block[behind:], live)
    return live | later


def _blocks_around(function: ast.FunctionDef, statement: ast.stmt) -> list[tuple[list[ast.stmt], int]] | None:
    """Blocks from the function's down to the statement's, with the place in each; None if more than branches are."""
    found: list[tuple[list[ast.stmt], int]] = []
    block = function.body
    while True:
        index = next((index for index, item in enumerate(block) if _holds(item, statement)), None)
        if index is None:
            return None
        found.append((block, index))
        item = block[index]
        if item is statement:
            return found
        if not isinstance(item, ast.If):
            return None
        block = item.body if any(_holds(child, statement) for child in item.body) else item.orelse


def _holds(item: ast.stmt, statement: ast.stmt) -> bool:
    """Whether a statement is another one, or around it."""
    is_near = item.lineno <= statement.lineno <= (item.end_lineno or statement.lineno)
    return is_near and any(node is statement for node in ast.walk(item))


def _before(block: Sequence[ast.stmt], live: frozenset[str]) -> frozenset[str]:
    """Names that are live before a block, given those behind it."""
    for statement in reversed(block):
        if isinstance(statement, (ast.Return, ast.Raise)):
            live = _loads(statement)
        elif isinstance(statement, ast.If):
            live = _loads(statement.test) | _before(statement.body, live) | _before(statement.orelse, live)
        elif isinstance(statement, _SIMPLE):
            live = (live - _sets(statement)) | _loads(statement)
        else:
            live = live | _loads(statement)
    return live


def _sets(statement: ast.stmt) -> set[str]:
    """Names that a statement sets whatever happens."""
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets = [statement.target]
    plain = [item for target in targets for item in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return {item.id for item in plain if isinstance(item, ast.Name)}


@lru_cache(maxsize=64)
def _read_later(function: ast.FunctionDef) -> frozenset[str]:
    """Names that functions inside a function read."""
    inner = [node for node in ast.walk(function) if isinstance(node, _LATER) and node is not function]
    return frozenset().union(*map(_loads, inner))


@lru_cache(maxsize=4096)  # each cut of a function asks for all of its statements
def _loads(node: ast.AST) -> frozenset[str]:
    """Names that are read anywhere in a node; ``x += 1`` reads ``x``."""
    every = list(ast.walk(node))
    changed = [item.target for item in every if isinstance(item, ast.AugAssign)]
    read = [item for item in every if isinstance(item, ast.Name) and not isinstance(item.ctx, ast.Store)]
    return frozenset(item.id for item in (*changed, *read) if isinstance(item, ast.Name))
