"""What the source of a part may do besides computing what it gives, on the way of the example or on another one."""

from __future__ import annotations

import ast
from functools import lru_cache

from fxquant.capture.branches import function_name
from fxquant.capture.cut_function import Cut
from fxquant.capture.names_in_code import names_in, targets_of
from fxquant.ir.effects import RANDOM

_OPERATORS = frozenset(
    ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "imatmul", "ilshift",
     "irshift", "iconcat", "setitem", "delitem")
)  # fmt: skip
_CHANGE_ARRAYS = frozenset(("put", "place", "copyto", "putmask", "fill_diagonal", "put_along_axis"))
# Methods and functions of torch's that give what they are given, or a look into it. Source: torch's "Tensor Views".
_SAME_MEMORY = frozenset(
    ("view", "view_as", "reshape", "reshape_as", "transpose", "permute", "t", "swapaxes", "swapdims", "movedim",
     "moveaxis", "expand", "expand_as", "squeeze", "unsqueeze", "flatten", "unflatten", "ravel", "contiguous", "detach",
     "to", "type", "type_as", "float", "double", "half", "bfloat16", "int", "long", "bool", "cpu", "cuda", "narrow",
     "select", "chunk", "split", "tensor_split", "hsplit", "vsplit", "unbind", "unfold", "diagonal", "as_strided",
     "real", "imag", "numpy", "from_numpy", "as_tensor", "asarray", "broadcast_to", "broadcast_tensors", "get", "pop")
)  # fmt: skip
_ARGUMENTS = frozenset(("out", "inplace"))


@lru_cache(maxsize=1024)
def writes(cut: Cut) -> bool:
    """Whether a part may write into tensors or arrays: ``x.add_(1)``, ``F.relu_``, ``operator.iadd``, ``out=y``."""
    return any(_writes(node) for node in cut.nodes)


@lru_cache(maxsize=1024)
def written_names(cut: Cut) -> frozenset[str]:
    """Names of tensors that a part may write into: ``y *= 2`` does, ``y[0] = 1``, and ``z.add_(1)`` after ``z = y``."""
    found = {name for node in cut.nodes for name in _written_by(node)}
    given = [node for node in cut.nodes if isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr))]
    before = -1
    while before != len(found):  # what is behind another name may be written into, too
        before = len(found)
        for node in given:
            if any(found & names_in(target, ast.Store) for target in targets_of(node)):
                found |= _names_behind(node.value)
    return frozenset(found)


def _names_behind(value: ast.expr | None) -> set[str]:
    """Names of tensors that the value of an expression may be, or look into."""
    if isinstance(value, (ast.BinOp, ast.UnaryOp, ast.Compare, ast.Constant)):
        return set()
    if isinstance(value, ast.Call):
        name, base = function_name(value.func), value.func
        while isinstance(base, (ast.Attribute, ast.Subscript, ast.Call)):
            base = base.func if isinstance(base, ast.Call) else base.value
        is_plain = isinstance(value.func, ast.Attribute) and not (isinstance(base, ast.Name) and base.id == "self")
        if is_plain and name not in _SAME_MEMORY and not name.endswith("_"):
            return set()  # a method of a tensor, or a function of torch's, that gives something new
        return names_in(value)
    if isinstance(value, (ast.IfExp, ast.BoolOp)):
        parts = value.values if isinstance(value, ast.BoolOp) else [value.body, value.orelse]
        return set().union(*map(_names_behind, parts))
    return names_in(value) if value is not None else set()


def _written_by(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
        return names_in(node.value)
    if isinstance(node, ast.AugAssign):
        return names_in(node.target)
    called = node.func if isinstance(node, ast.Call) else node
    return names_in(node) if any(_writes(item) for item in (node, called)) else set()


@lru_cache(maxsize=1024)
def acts(cut: Cut) -> bool:
    """Whether a part may do more than compute what it gives: change something, draw a number, or raise an error."""
    return writes(cut) or any(_acts(node) for node in cut.nodes)


def _writes(node: ast.AST) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else ""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name = node.func.id
    in_place = name.endswith("_") and not name.endswith("__") and name.strip("_") != ""
    asks_for_it = isinstance(node, ast.keyword) and node.arg in _ARGUMENTS
    return in_place or asks_for_it or name in _OPERATORS or name in _CHANGE_ARRAYS


def _acts(node: ast.AST) -> bool:
    if isinstance(node, (ast.Raise, ast.Assert)):
        return True
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Call) and function_name(node.func) in RANDOM:
        return True
    return isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del)) and not isinstance(node, ast.Name)
