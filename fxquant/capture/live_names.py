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

_LATER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.GeneratorExp, ast.ClassDef)  # read names when they run
_SIMPLE = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Assert, ast.Pass, ast.Import, ast.ImportFrom)
_READS_ALL = frozenset(("locals", "vars", "eval", "exec", "dir"))


def live_names(function: ast.FunctionDef, statements: Sequence[ast.stmt]) -> set[str] | None:
    """Names that may be read behind statements that are one after the other in a function.

    Args:
        function: not changed.
        statements: of one block in it.

    Returns:
        The names; None where that cannot be told, as inside loops.
    """
    blocks = _blocks_around(function, statements[0])
    if blocks is None or _loads([function]) & _READS_ALL:
        return None
    inner = [node for node in ast.walk(function) if isinstance(node, _LATER) and node is not function]
    live = _loads(inner)
    for depth, (block, index) in enumerate(blocks):
        behind = index + (len(statements) if depth == len(blocks) - 1 else 1)
        live = _before(block[behind:], live)
    return live | _loads(inner)


def _blocks_around(function: ast.FunctionDef, statement: ast.stmt) -> list[tuple[list[ast.stmt], int]] | None:
    """Blocks from the function's down to the statement's, with the place in each; None if more than branches are."""
    found: list[tuple[list[ast.stmt], int]] = []
    block = function.body
    while True:
        places = (index for index, item in enumerate(block) if any(node is statement for node in ast.walk(item)))
        index = next(places, None)
        if index is None:
            return None
        found.append((block, index))
        item = block[index]
        if item is statement:
            return found
        if not isinstance(item, ast.If):
            return None
        inside = any(node is statement for child in item.body for node in ast.walk(child))
        block = item.body if inside else item.orelse


def _before(block: Sequence[ast.stmt], live: set[str]) -> set[str]:
    """Names that are live before a block, given those behind it."""
    for statement in reversed(block):
        if isinstance(statement, (ast.Return, ast.Raise)):
            live = _loads([statement])
        elif isinstance(statement, ast.If):
            live = _loads([statement.test]) | _before(statement.body, live) | _before(statement.orelse, live)
        elif isinstance(statement, _SIMPLE):
            live = (live - _sets(statement)) | _loads([statement])
        else:
            live = live | _loads([statement])
    return live


def _sets(statement: ast.stmt) -> set[str]:
    """Names that a statement sets whatever happens."""
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets = [statement.target]
    plain = [item for target in targets for item in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return {item.id for item in plain if isinstance(item, ast.Name)}


def _loads(nodes: Sequence[ast.AST]) -> set[str]:
    """Names that are read anywhere in some nodes; ``x += 1`` reads ``x``."""
    every = [node for top in nodes for node in ast.walk(top)]
    changed = [node.target for node in every if isinstance(node, ast.AugAssign)]
    read = [node for node in every if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store)]
    return {node.id for node in (*changed, *read) if isinstance(node, ast.Name)}
