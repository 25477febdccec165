"""What the side of a branch that the example does not take would do.

``if x.isnan().any(): raise ValueError`` needs no ``torch.where``: when the answer is another one, the model raises, and
so does a graph that checks the answer.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from enum import Enum
from types import CodeType, FrameType
from typing import TypeGuard

from fxquant.capture.parsed_files import holds, path_to, tree_of
from fxquant.capture.source import position, position_beside
from fxquant.ir.codes import remembered

WRITES = frozenset(("warn", "warning", "warning_once", "info", "debug", "print", "error", "log", "advice"))

# What they are given as text is for people.
_FOR_PEOPLE = WRITES | {"_assert", "_check", "record_function", "range_push"}

# Exceptions that no operation of torch's raises for sizes or values.
_NOT_OF_OPERATIONS = frozenset(
    ("AttributeError", "AssertionError", "ImportError", "KeyError", "ModuleNotFoundError", "NameError", "OSError",
     "StopIteration", "UnicodeError", "ValueError")
)  # fmt: skip


class Other(Enum):
    """What the side not taken does."""

    COMPUTES = 1
    RAISES = 2
    WRITES = 3  # messages, and nothing else


def other_side(frame: FrameType, answer: bool) -> Other:
    """What the branch that ``frame`` is at would do, had the answer been another one."""
    where = position(frame.f_code, frame.f_lasti)
    tree = tree_of(frame.f_code.co_filename)
    if where is None or tree is None:
        return Other.COMPUTES
    path = path_to(tree, where)
    for node in reversed(path):
        if isinstance(node, (ast.If, ast.Assert)):
            found = _judge(node, path, frame, answer)
            return Other.COMPUTES if found is Other.RAISES and _caught(path) else found
        if isinstance(node, (ast.stmt, ast.IfExp, ast.comprehension)):
            break
    return Other.COMPUTES


def catches(node: ast.AST) -> bool:
    """Whether a statement catches what its body raises, and code goes on behind it."""
    if isinstance(node, ast.With):
        return bool(_suppressing(node))
    return isinstance(node, ast.Try) and not all(isinstance(item.body[-1], ast.Raise) for item in node.handlers)


def _suppressing(node: ast.With) -> list[ast.Call]:
    calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
    return [call for call in calls if function_name(call.func) == "suppress"]


def catches_operations(node: ast.AST) -> bool:
    """Whether a statement catches what torch's operations raise in its body."""
    if isinstance(node, ast.With):
        kinds: list[ast.expr | None] = [kind for call in _suppressing(node) for kind in call.args]
    elif isinstance(node, ast.Try):
        kinds = [item.type for item in node.handlers if not isinstance(item.body[-1], ast.Raise)]
    else:
        return False
    named = [part for kind in kinds for part in (kind.elts if isinstance(kind, ast.Tuple) else [kind])]
    return any(kind is None or function_name(kind) not in _NOT_OF_OPERATIONS for kind in named)


def _caught(path: Sequence[ast.AST], does: Callable[[ast.AST], bool] = catches) -> bool:
    """Whether the innermost function on a path catches exceptions there."""
    for node, inner in zip(path[-2::-1], path[:0:-1], strict=True):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            break
        if does(node) and inner in getattr(node, "body", ()):
            return True
    return False


def is_caught(frame: FrameType, does: Callable[[ast.AST], bool] = catches) -> bool:
    """Whether the function of a frame catches what the line that it is at raises, in a statement that ``does``."""
    return _is_caught_at(frame.f_code, frame.f_lasti, does)


@remembered  # it is asked for each operation that is recorded
def _is_caught_at(code: CodeType, instruction: int, does: Callable[[ast.AST], bool]) -> bool:
    where, tree = position(code, instruction), tree_of(code.co_filename)
    return where is not None and tree is not None and _caught(path_to(tree, where), does)


def in_message(frame: FrameType) -> bool:
    """Whether what a frame computes is part of a message: of an exception, a warning, a log."""
    where, tree = position(frame.f_code, frame.f_lasti), tree_of(frame.f_code.co_filename)
    path = [] if where is None or tree is None else path_to(tree, where)
    calls = [node.func for node in path if isinstance(node, ast.Call)]
    return any(isinstance(node, ast.Raise) for node in path) or any(
        function_name(call) in _FOR_PEOPLE for call in calls
    )


def _judge(node: ast.If | ast.Assert, path: Sequence[ast.AST], frame: FrameType, answer: bool) -> Other:
    """What another answer leads to, where it decides the test alone.

    It does for the last thing that the test asks; ``a and b`` is decided by any that is false, ``a or b`` by any that
    is true.
    """
    asked = test = node.test
    is_last = True
    if isinstance(test, ast.BoolOp):
        following = position_beside(frame, 2)
        is_last = following is not None and not holds(test, *following)
        asked = test.values[-1] if is_last else next((item for item in test.values if item in path), test)
    inside = asked.operand if is_not(asked) else None
    whole = answer is (inside is None)
    question = asked if inside is None else inside
    if isinstance(question, (ast.BoolOp, ast.IfExp)):
        return Other.COMPUTES
    if isinstance(question, ast.Compare) and len(question.ops) > 1 and not answer:  # the next comparison is asked then
        return Other.COMPUTES
    if not is_last and whole is not isinstance(getattr(test, "op", None), ast.And):
        return Other.COMPUTES
    if isinstance(node, ast.Assert):
        return Other.RAISES if whole else Other.COMPUTES
    return _what(node.orelse if whole else node.body)


def _what(statements: Sequence[ast.stmt]) -> Other:
    if not statements:
        return Other.COMPUTES
    if isinstance(statements[-1], ast.Raise) and all(_harmless(item) for item in statements[:-1]):
        return Other.RAISES
    return Other.WRITES if all(_writes(item) for item in statements) else Other.COMPUTES


def _harmless(statement: ast.stmt) -> bool:
    return isinstance(statement, (ast.Assign, ast.AnnAssign)) or _writes(statement)


def _writes(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Pass):
        return True
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call):
        return False
    return function_name(call.func) in WRITES


def function_name(function: ast.expr) -> str:
    """The name of a function or method in the source of its call; "" where it has none."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def is_not(node: ast.AST) -> TypeGuard[ast.UnaryOp]:
    """Whether an expression is ``not ...``."""
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
