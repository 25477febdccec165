"""What a piece of source would do to a graph if it ran: told from its syntax alone."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

_ADDING = frozenset(("append", "extend", "insert", "update", "pop", "popitem", "clear", "setdefault", "remove", "add"))
_VALUES = frozenset(("item", "tolist", "numpy"))
_DRAWS = frozenset(
    ("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "normal", "bernoulli", "multinomial",
     "gumbel_softmax")
)  # fmt: skip
_FUNCTIONAL = ("F", "nn.functional", "torch.nn.functional")
_BLOCKS = {
    "no_grad": "runs without gradients", "enable_grad": "sets the gradient mode", "inference_mode": "runs without "
    "gradients", "set_grad_enabled": "sets the gradient mode", "autocast": "changes the dtype of operations",
}  # fmt: skip
_CLOCKS = frozenset(("time", "perf_counter", "monotonic", "process_time"))
_SEEDS = frozenset(("manual_seed", "seed", "set_rng_state"))
_REGISTERS = frozenset(("register_buffer", "register_parameter", "register_module", "add_module"))


@dataclass(frozen=True)
class Scope:
    """What names mean in a function.

    Attributes:
        names: the globals of its file, and what it imports.
        declared: names that it declares global.
        own: what its own object, or class, is called.
    """

    names: Mapping[str, Any]
    declared: Collection[str] = ()
    own: Collection[str] = ("self", "cls")

    def is_own(self, node: ast.AST) -> bool:
        """Whether an expression is the function's own object, an attribute of it, or its class."""
        if isinstance(node, ast.Call):  # type(self)
            return dotted(node.func) == "type" and len(node.args) == 1 and self.is_own(node.args[0])
        if isinstance(node, ast.Attribute):
            return self.is_own(node.value)
        return isinstance(node, ast.Name) and node.id in self.own


def risks(node: ast.AST, scope: Scope) -> Iterator[str]:
    """What ``node``, without the statements in its blocks, would do that a graph does not hold, one clause each.

    Args:
        node: a statement.
        scope: of its function.
    """
    for part in own_parts(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store) and part.id in scope.declared:
            yield f"changes the global {part.id}"
        for find in _FINDERS:
            clause = find(part, scope)
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


def _stores(node: ast.AST, scope: Scope) -> str:
    context = getattr(node, "ctx", None)
    if not isinstance(context, (ast.Store, ast.Del)):
        return ""
    if isinstance(node, ast.Attribute):
        return f"changes {ast.unparse(node)}" if scope.is_own(node) or node.attr == "data" else ""
    if isinstance(node, ast.Subscript):
        return f"writes into {ast.unparse(node.value)}"
    return ""


def _calls_method(node: ast.AST, scope: Scope) -> str:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return ""
    method, owner = node.func.attr, dotted(node.func.value)
    if method.endswith("_") and not method.endswith("__") and not method.startswith("_"):
        return f"writes in place: {ast.unparse(node)}"
    if method in _ADDING and isinstance(node.func.value, ast.Attribute) and scope.is_own(node.func.value):
        return f"changes {owner}"
    if method in _REGISTERS and scope.is_own(node.func.value):
        return f"changes {owner}: {ast.unparse(node)}"
    if method in ("sample", "rsample") and not node.args:
        return f"draws random numbers: {ast.unparse(node)}"
    if method in _VALUES and not node.args and owner.partition(".")[0] not in ("np", "numpy"):
        return f"takes the value of a tensor: {ast.unparse(node)}"
    return ""


def _calls_in_place(node: ast.AST, scope: Scope) -> str:
    if not isinstance(node, ast.Call):
        return ""
    if dotted(node.func) == "setattr" and node.args and scope.is_own(node.args[0]):
        return f"changes {ast.unparse(node.args[0])}: {ast.unparse(node)}"
    for keyword in node.keywords:
        literal = isinstance(keyword.value, ast.Constant) and keyword.value.value
        if keyword.arg == "out" or (keyword.arg == "inplace" and literal is True):
            return f"writes in place: {ast.unparse(node)}"
    return ""


def _draws(node: ast.AST, scope: Scope) -> str:
    if not isinstance(node, ast.Call):
        return ""
    name = dotted(node.func)
    owner, _, function = name.rpartition(".")
    module = getattr(resolve(name, scope.names), "__module__", None) or ""
    if owner.split(".")[-1] == "random" or owner.startswith(("np.random", "numpy.random")) or module == "random":
        return f"draws random numbers in Python: {ast.unparse(node)}"
    if function in _DRAWS and owner in ("torch", *_FUNCTIONAL):
        return f"draws random numbers: {ast.unparse(node)}"
    if function in _SEEDS and owner in ("torch", "torch.random"):
        return f"sets the random state: {ast.unparse(node)}"
    if function in _CLOCKS and owner == "time":
        return f"reads a clock: {ast.unparse(node)}"
    given = (*node.args, *(key.value for key in node.keywords))
    follows = any(
        isinstance(part, ast.Attribute) and part.attr == "training" for item in given for part in ast.walk(item)
    )
    if function.endswith("dropout") and owner in _FUNCTIONAL and not follows:
        return f"drops values in eval mode too: {ast.unparse(node)}"
    return ""


def _custom_function(node: ast.AST, scope: Scope) -> str:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "apply":
        owner = node.func.value.func if isinstance(node.func.value, ast.Call) else node.func.value
        found = resolve(dotted(owner), scope.names)
        if isinstance(found, type) and issubclass(found, torch.autograd.Function):
            return f"calls a torch.autograd.Function, whose backward would be lost: {ast.unparse(node)}"
    return ""


def _block(node: ast.AST, scope: Scope) -> str:
    call = node.context_expr if isinstance(node, ast.withitem) else None
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call = node.value if dotted(node.value.func).endswith("set_grad_enabled") else None
    return _BLOCKS.get(dotted(call.func).rpartition(".")[2], "") if isinstance(call, ast.Call) else ""


_FINDERS: tuple[Callable[[ast.AST, Scope], str], ...] = (
    _stores, _calls_method, _calls_in_place, _draws, _custom_function, _block,
)  # fmt: skip
