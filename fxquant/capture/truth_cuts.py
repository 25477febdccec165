"""Statements that give a truth value, or None, by size: what they decide behind them is kept whole with them.

Before: ``odd = height % 2 == 1 or width % 2 == 1`` is asked in the statement behind it: ``if odd: x = F.pad(x, ...)``.

After: both statements are one part.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import lru_cache
from types import CodeType

from fxquant.capture.branches import function_name, is_not
from fxquant.capture.cut_function import Cut, Where, find_cut, widened
from fxquant.capture.names_in_code import names_in, targets_of
from fxquant.capture.parsed_files import function_of
from fxquant.ir.codes import remembered

_MULTIPLY = ("matmul", "bmm", "mm", "einsum", "baddbmm", "addmm", "scaled_dot_product_attention")
_GIVE_TRUTH = ("any", "all", "bool", "isinstance", "issubclass", "hasattr", "callable")


@remembered
def narrow_cut(code: CodeType, where: Where) -> Cut | None:
    """The statement that a position in a function is in, see ``find_cut``."""
    return find_cut(code, where)


@remembered
def wide_cut(code: CodeType, where: Where) -> Cut | None:
    """That statement with those that it decides; itself where it decides none, or where they are more than decided."""
    cut = narrow_cut(code, where)
    names = set() if cut is None else set(_truths_of(cut))
    wider = widened(cut, names) if cut is not None and names else None
    if cut is None or wider is None or may_give_truth(wider):
        return cut
    behind = wider.statements[len(cut.statements) :]
    return wider if _only_decide(behind, names) and not any(map(multiplies, behind)) else cut


def _only_decide(statements: Sequence[ast.stmt], names: set[str]) -> bool:
    """Whether statements read names to decide what is done, and where that was decided: not as others' operands."""
    nodes = [node for statement in statements for node in ast.walk(statement)]
    decided = set[int]()
    for node in nodes:
        if isinstance(node, (ast.If, ast.IfExp, ast.While, ast.Assert)) and not names.isdisjoint(names_in(node.test)):
            decided.update(map(id, ast.walk(node)))
    read = [node for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    return all(id(node) in decided for node in read if node.id in names)


def multiplies(statement: ast.stmt) -> bool:
    """Whether a statement may multiply matrices, which is done in int8."""
    calls = {function_name(node.func) for node in ast.walk(statement) if isinstance(node, ast.Call)}
    operators = {type(node.op) for node in ast.walk(statement) if isinstance(node, ast.BinOp)}
    return ast.MatMult in operators or not calls.isdisjoint(_MULTIPLY)


@lru_cache(maxsize=1024)
def may_give_truth(cut: Cut) -> bool:
    """Whether statements give a truth value, None or a text, on the path of the example or on another one.

    ``k = None if n > 8 else 1``, ``is_causal = n > 1 and mask is None``.
    """
    return any(True for _ in _truths_of(cut))


def _truths_of(cut: Cut) -> Iterator[str]:
    """Names by which statements give such a value, "" for what they return."""
    if not cut.gives_one:
        yield from (name for name in _constants_outside(cut) if name in cut.outputs)
    for node in cut.nodes:
        if isinstance(node, ast.Return) and _may_be_truth(node.value):
            yield ""
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr)) and _may_be_truth(node.value):
            yield from (item.id for item in targets_of(node) if isinstance(item, ast.Name) and item.id in cut.outputs)


def _constants_outside(cut: Cut) -> Iterator[str]:
    """Names that the function sets to such a constant elsewhere: ``pad = None``, and a tuple where a size is odd."""
    inside = set(map(id, cut.nodes))
    function = function_of(cut.code)
    for node in ast.walk(function) if function is not None else ():
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and _may_be_truth(node.value):
            yield from (item.id for item in node.targets if isinstance(item, ast.Name) and id(node) not in inside)


def _may_be_truth(value: ast.expr | None) -> bool:
    if isinstance(value, ast.IfExp):
        return _may_be_truth(value.body) or _may_be_truth(value.orelse)
    if isinstance(value, ast.BoolOp):
        return any(map(_may_be_truth, value.values))
    if isinstance(value, ast.Call):
        return function_name(value.func) in _GIVE_TRUTH
    constant = isinstance(value, ast.Constant) and isinstance(value.value, (bool, str, type(None)))
    return constant or isinstance(value, ast.Compare) or (value is not None and is_not(value))
