"""Expressions that ask for sizes, in statements that multiply by weights: they are kept whole without the statement.

Before: ``return self.head(F.pad(y, (0, 1)) if y.shape[-1] % 2 else y)`` is right for even lengths or for odd ones.

After: ``return self.head(part_0(locals()))``, where ``part_0`` runs as Python, and the head in int8.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from types import CodeType

from fxquant.capture.branches import is_not
from fxquant.capture.cut_function import Cut, Where, blocks_of, has_caught
from fxquant.capture.effects_in_code import writes
from fxquant.capture.names_in_code import SCOPES, names_used, targets_of
from fxquant.capture.parsed_files import function_of, path_to
from fxquant.capture.truth_cuts import multiplies
from fxquant.ir.codes import remembered

_ASK_THE_FRAME = ("super", "locals", "vars", "dir", "eval", "exec", "inspect", "sys")
_OF_VALUES = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.Expr)  # statements that ask nothing themselves


@remembered
def expression_cuts(code: CodeType, where: Where) -> tuple[Cut, ...]:
    """The expressions of a function around a position that could be cut out of their statement, the smallest first.

    Not those that decide a branch, or are a part of what does: what they give would be asked for next. Nor those that
    multiply matrices, which is done in int8, or write into what others read.
    """
    found = _expressions_around(code, where)
    return tuple(cut for cut in found if not any(map(multiplies, cut.statements)) and not writes(cut))


def _expressions_around(code: CodeType, where: Where) -> Iterator[Cut]:
    function = function_of(code)
    path = path_to(function, where) if isinstance(function, ast.FunctionDef) else []
    begin = max((place for place, node in enumerate(path) if isinstance(node, ast.stmt)), default=len(path))
    is_value = begin < len(path) and isinstance(path[begin], _OF_VALUES)
    if not is_value or any(has_caught(parent, around) for parent, around, _ in blocks_of(path)):
        return
    scopes = (place for place, node in enumerate(path) if place > begin and isinstance(node, SCOPES))
    for place in range(next(scopes, len(path) - 1), begin, -1):  # what is inside of a scope has names of its own
        node, parent = path[place], path[place - 1]
        if isinstance(node, ast.expr) and not (_is_bound(node) or _decides(node, parent) or _is_all(node, parent)):
            made = ast.copy_location(ast.Return(node), node)
            used = names_used([made])
            inputs = used.loaded & {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
            first, last = node.lineno, node.end_lineno or 0
            shared = tuple(sorted(used.changed & inputs))
            yield Cut(code, (made,), tuple(sorted(inputs)), (), False, used, first, last, shared, node)


def _is_bound(node: ast.expr) -> bool:
    """Whether an expression has no value of its own, or has to stay in its function."""
    no_value = isinstance(node, (ast.Slice, ast.Starred)) or not isinstance(getattr(node, "ctx", ast.Load()), ast.Load)
    stay = (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)
    own = any(isinstance(item, ast.Name) and item.id in _ASK_THE_FRAME for item in ast.walk(node))
    return no_value or own or any(isinstance(item, stay) for item in ast.walk(node))


def _is_all(node: ast.expr, statement: ast.AST) -> bool:
    """Whether an expression is as much as a statement is."""
    targets = targets_of(statement)
    names_only = bool(targets) and all(isinstance(target, ast.Name) for target in targets)
    return node is getattr(statement, "value", None) and (names_only or isinstance(statement, (ast.Return, ast.Expr)))


def _decides(node: ast.expr, parent: ast.AST) -> bool:
    """Whether a branch is decided by an expression."""
    in_condition = isinstance(parent, ast.BoolOp) or is_not(parent) or node is getattr(parent, "test", None)
    return in_condition or isinstance(node, (ast.Compare, ast.BoolOp)) or is_not(node)
