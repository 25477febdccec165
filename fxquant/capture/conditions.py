"""Parts of conditions that do not decide, whatever they are answered, because another part does.

``is_causal = length > 1 and mask is None``, where there is a mask: it is False with any length, so the graph does not
check the length. In ``length == 1 or length == count``, where both lengths are equal, the graph checks that alone.
"""

from __future__ import annotations

import ast
import dis
import operator
from collections.abc import Callable
from types import FrameType
from typing import Any

from fxquant.capture.branches import function_name, is_not
from fxquant.capture.parsed_files import path_to, tree_of
from fxquant.capture.proxy import ValueProxy
from fxquant.capture.source import position, position_beside

_SIZES = ("size", "len", "dim", "numel")
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip


def is_decided_elsewhere(frame: FrameType, answer: bool) -> bool:
    """Whether ``a and b``, or ``a or b``, comes to the same whatever the comparison gives that a frame is at.

    Args:
        frame: of the user's code; asks for the truth of a comparison.
        answer: on the example.
    """
    path = _path_to_question(frame)
    if not path or not _asks_for_truth(dis.opname[frame.f_code.co_code[frame.f_lasti]]):
        return False
    asked, *around = reversed(path)
    while around and is_not(around[0]):
        asked, *around = around
        answer = not answer
    condition = around[0] if around else None
    if not isinstance(condition, ast.BoolOp) or asked not in condition.values or not _is_truth(asked):
        return False
    decides = isinstance(condition.op, ast.Or)  # what one part has to be so that the others do not matter
    if answer is decides and not _is_tested(around):  # the condition is the question itself, which others answer anew
        return False
    for part in condition.values[condition.values.index(asked) + 1 :]:
        if _fixed_truth(part, frame) is decides:
            return True
        if not (_is_truth(part) and _only_computes(part)):
            return False
        is_asked = answer is not decides and (part is not condition.values[-1] or _is_tested(around))
        if is_asked and _truth_of_numbers(part, frame) is decides:  # next, and checked
            return True
    return False


def _path_to_question(frame: FrameType) -> list[ast.AST]:
    """Nodes down to what a frame asks for the truth of; none where that is unknown."""
    where, tree = position(frame.f_code, frame.f_lasti), tree_of(frame.f_code.co_filename)
    if where is None or tree is None:
        return []
    path = path_to(tree, where)
    if not isinstance(path[-1], ast.BoolOp):
        return path
    before = position_beside(frame, -2)  # of a condition that is a value: the instruction that computes the question
    return [] if before is None else path_to(tree, before)


def _asks_for_truth(instruction: str) -> bool:
    """Whether an instruction asks for the truth of a value: comparisons of containers ask for that of their parts."""
    return "JUMP" in instruction or instruction in ("TO_BOOL", "UNARY_NOT")


def _is_tested(around: list[ast.AST]) -> bool:
    """Whether the innermost of some nodes decides a branch, and is no value that is kept."""
    inner = around[0]
    for node in around[1:]:
        if not (isinstance(node, ast.BoolOp) or is_not(node)):
            return inner is getattr(node, "test", None) or inner in getattr(node, "ifs", ())
        inner = node
    return False


def _is_truth(node: ast.AST) -> bool:
    """Whether an expression gives True or False, and nothing that stands for one of them."""
    while is_not(node):
        node = node.operand
    return isinstance(node, ast.Compare) and len(node.ops) == 1


def _only_computes(node: ast.AST) -> bool:
    """Whether an expression calls nothing but what gives sizes."""
    calls = [item for item in ast.walk(node) if isinstance(item, ast.Call)]
    others = any(isinstance(item, (ast.NamedExpr, ast.Await, ast.Yield, ast.Lambda)) for item in ast.walk(node))
    return not others and all(function_name(call.func) in _SIZES for call in calls)


def _fixed_truth(node: ast.expr, frame: FrameType) -> bool | None:
    """What a part gives that asks for a local name, or whether it is None; None where that is unknown.

    No inputs can change it: had it been computed from a size, the graph would check that already.
    """
    names = frame.f_locals
    if is_not(node):
        found = _fixed_truth(node.operand, frame)
        return None if found is None else not found
    if isinstance(node, ast.Name) and type(names.get(node.id)) is bool:
        return bool(names[node.id])
    if not isinstance(node, ast.Compare) or len(node.ops) > 1 or not isinstance(node.left, ast.Name):
        return None
    other, question = node.comparators[0], node.ops[0]
    asks = isinstance(question, (ast.Is, ast.IsNot)) and isinstance(other, ast.Constant) and other.value is None
    if not asks or node.left.id not in names:
        return None
    return (names[node.left.id] is None) is isinstance(question, ast.Is)


def _truth_of_numbers(node: ast.expr, frame: FrameType) -> bool | None:
    """What a comparison of local names and constants that are numbers gives on the example; None for all others."""
    if not isinstance(node, ast.Compare) or type(node.ops[0]) not in _COMPARISONS:
        return None
    first, second = (_number(item, frame) for item in (node.left, node.comparators[0]))
    return None if first is None or second is None else bool(_COMPARISONS[type(node.ops[0])](first, second))


def _number(node: ast.expr, frame: FrameType) -> int | None:
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(node, ast.Name):
        value = frame.f_locals.get(node.id)
    value = value.value if isinstance(value, ValueProxy) else value
    return value if isinstance(value, int) else None
