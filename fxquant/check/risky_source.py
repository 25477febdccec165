"""What a piece of source would do to a graph if it ran: told from its syntax alone."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch

_ADDING = frozenset(("append", "extend", "insert", "update", "pop", "popitem", "clear", "setdefault", "remove", "add"))
_VALUES = frozenset(("item", "tolist", "numpy"))
_DRAWS = frozenset(
    ("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "normal", "bernoulli", "multinomial")
)
_BLOCKS = {
    "no_grad": "runs without gradients", "enable_grad": "sets the gradient mode", "inference_mode": "runs without "
    "gradients", "set_grad_enabled": "sets the gradient mode", "autocast": "changes the dtype of operations",
}  # fmt: skip
_CLOCKS = frozenset(("time", "perf_counter", "monotonic", "process_time"))


def risks(node: ast.AST, names: Mapping[str, Any], declared: Collection[str] = ()) -> Iterator[str]:
    """What ``node``, without the statements in its blocks, would do that a graph does not hold, one clause each.

    Args:
        node: a statement.
        names: the globals of its file.
        declared: names that its function declares global.
    """
    for part in own_parts(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store) and part.id in declared:
            yield f"changes the global {part.id}"
        for find in _FINDERS:
            clause = find(part, names)
            if clause:
                yield clause


def own_parts(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a statement that are not in statements inside it."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.stmt, ast.ExceptHandler)):
            yield from own_parts(child)


def dotted(node: ast.AST) -> str:
    """``self.a.b`` for names and attributes, "" for anything else."""
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return node.id if isinstance(node, ast.Name) else ""


def resolve(name: str, names: Mapping[str, Any]) -> Any:
    """What a dotted name means among the globals of a file, None when that is not known."""
    first, *rest = name.split(".")
    found = names.get(first)
    for part in rest:
        found = getattr(found, part, None)
    return found


def _stores(node: ast.AST, names: Mapping[str, Any]) -> str:
    context = getattr(node, "ctx", None)
    if not isinstance(context, (ast.Store, ast.Del)):
        return ""
    if isinstance(node, ast.Attribute):
        return f"changes {ast.unparse(node)}" if dotted(node).startswith("self.") else ""
    if isinstance(node, ast.Subscript):
        return f"writes into {ast.unparse(node.value)}"
    return ""


def _calls_method(node: ast.AST, names: Mapping[str, Any]) -> str:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return ""
    method, owner = node.func.attr, dotted(node.func.value)
    if method.endswith("_") and not method.endswith("__") and not method.startswith("_"):
        return f"writes in place: {ast.unparse(node)}"
    if method in _ADDING and owner.startswith("self."):
        return f"changes {owner}"
    if method in _VALUES and not node.args and owner.partition(".")[0] not in ("np", "numpy"):
        return f"takes the value of a tensor: {ast.unparse(node)}"
    return ""


def _draws(node: ast.AST, names: Mapping[str, Any]) -> str:
    if not isinstance(node, ast.Call):
        return ""
    name = dotted(node.func)
    owner, _, function = name.rpartition(".")
    module = getattr(resolve(name, names), "__module__", None) or ""
    if owner.split(".")[-1] == "random" or owner.startswith(("np.random", "numpy.random")) or module == "random":
        return f"draws random numbers in Python: {ast.unparse(node)}"
    if function in _DRAWS and owner == "torch":
        return f"draws random numbers: {ast.unparse(node)}"
    if function in _CLOCKS and owner == "time":
        return f"reads a clock: {ast.unparse(node)}"
    follows = any("training" in ast.unparse(item) for item in (*node.args, *(key.value for key in node.keywords)))
    if function.endswith("dropout") and owner in ("F", "nn.functional", "torch.nn.functional") and not follows:
        return f"drops values in eval mode too: {ast.unparse(node)}"
    return ""


def _custom_function(node: ast.AST, names: Mapping[str, Any]) -> str:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "apply":
        found = resolve(dotted(node.func.value), names)
        if isinstance(found, type) and issubclass(found, torch.autograd.Function):
            return f"calls a torch.autograd.Function, whose backward would be lost: {ast.unparse(node)}"
    return ""


def _block(node: ast.AST, names: Mapping[str, Any]) -> str:
    if isinstance(node, ast.withitem) and isinstance(node.context_expr, ast.Call):
        return _BLOCKS.get(dotted(node.context_expr.func).rpartition(".")[2], "")
    return ""


_FINDERS: tuple[Callable[[ast.AST, Mapping[str, Any]], str], ...] = (
    _stores, _calls_method, _draws, _custom_function, _block,
)  # fmt: skip
