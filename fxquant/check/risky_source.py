"""What a piece of source would do to a graph if it ran: told from its syntax alone."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch

from fxquant.capture.branches import is_not
from fxquant.check.finding import FindingKind
from fxquant.check.source_tree import Function
from fxquant.check.watched_functions import kind_of_function

_ADDING = frozenset(("append", "extend", "insert", "update", "pop", "popitem", "clear", "setdefault", "remove", "add"))
_VALUES = frozenset(("item", "tolist", "numpy"))
_CONVERSIONS = frozenset(("float", "int", "bool", "complex"))
_REDUCTIONS = frozenset(
    ("max", "min", "sum", "mean", "any", "all", "norm", "std", "var", "argmax", "argmin", "prod", "median", "amax",
     "amin")
)  # fmt: skip
_PUSHES = frozenset(
    ("next", "heapq.heappush", "heapq.heappop", "heapq.heapify", "heapq.heappushpop", "heapq.heapreplace",
     "bisect.insort", "bisect.insort_left", "bisect.insort_right")
)  # fmt: skip
_DRAWS = frozenset(
    ("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli",
     "multinomial", "poisson", "gumbel_softmax")
)  # fmt: skip
_DRAWING_METHODS = frozenset(
    ("bernoulli", "multinomial", "bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "normal_",
     "random_", "uniform_")
)  # fmt: skip
# Dropping values: which argument turns it on, and whether it is on without. Source: torch/nn/functional.py, torch 2.13.
_DROPS = {
    "dropout": (2, True), "dropout1d": (2, True), "dropout2d": (2, True), "dropout3d": (2, True),
    "alpha_dropout": (2, False), "feature_alpha_dropout": (2, False), "feature_dropout": (2, False),
    "rrelu": (3, False),
}  # fmt: skip
_MAKES = frozenset(
    ("clone", "zeros", "ones", "empty", "full", "zeros_like", "ones_like", "empty_like", "full_like", "new_zeros",
     "new_ones", "new_empty", "new_full", "arange", "eye", "linspace", "list", "dict", "set", "defaultdict", "copy",
     "OrderedDict", "deepcopy")
)  # fmt: skip
_MUTABLE = (torch.Tensor, list, dict, set, bytearray)
_BLOCKS = {
    "no_grad": "runs without gradients", "enable_grad": "sets the gradient mode", "inference_mode": "runs without "
    "gradients", "set_grad_enabled": "sets the gradient mode", "autocast": "changes the dtype of operations",
}  # fmt: skip
_SEEDS = frozenset(("manual_seed", "seed", "set_rng_state"))
_REGISTERS = frozenset(("register_buffer", "register_parameter", "register_module", "add_module"))


@dataclass(frozen=True)
class Scope:
    """What names mean in a function.

    Attributes:
        names: the globals of its file, and what it imports.
        declared: names that it declares global.
        own: what its own object, or class, is called.
        local: its arguments, and the names that it assigns.
        shared: local names that may mean what the caller, or its own object, holds too.
        made: local names that are assigned nothing but new containers, and tensors made anew.
        owner: its own object, None where that is not known.
    """

    names: Mapping[str, Any]
    declared: Collection[str] = ()
    own: Collection[str] = ("self", "cls")
    local: Collection[str] = ()
    shared: Collection[str] = ()
    made: Collection[str] = ()
    owner: Any = None

    def value(self, name: str) -> Any:
        """What a dotted name means, None where that is not known."""
        first = name.partition(".")[0]
        if first in self.own and self.owner is not None:
            return resolve(name, {first: self.owner})
        return None if first in self.local else resolve(name, self.names)

    def is_global(self, node: ast.AST) -> bool:
        """Whether an expression is an object of the file, or an attribute of one, and no module."""
        first = dotted(node).partition(".")[0]
        known = first in self.names and first not in self.local and first not in self.own
        return known and not isinstance(self.value(dotted(node)), ModuleType)

    def outlives(self, node: ast.AST) -> bool:
        """Whether what an expression means is there after the call: the function's own, or the file's."""
        return self.is_own(node) or self.is_global(node)

    def is_own(self, node: ast.AST) -> bool:
        """Whether an expression is the function's own object, an attribute of it, or its class."""
        if isinstance(node, ast.Call):  # type(self)
            return dotted(node.func) == "type" and len(node.args) == 1 and self.is_own(node.args[0])
        if isinstance(node, ast.Attribute):
            return self.is_own(node.value)
        return isinstance(node, ast.Name) and node.id in self.own


def scope_of(function: Function, names: Mapping[str, Any], owner: Any) -> Scope:
    """What names mean in ``function``.

    Args:
        function: parsed.
        names: the globals of its file, and what it imports.
        owner: its own object, None where that is not known.
    """
    declared = {name for node in ast.walk(function) if isinstance(node, ast.Global) for name in node.names}
    arguments = function.args
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    others = [item for item in (arguments.vararg, arguments.kwarg) if item is not None]
    stored = [node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    local = {*(item.arg for item in (*given, *others)), *stored} - declared
    own = ("self", "cls", *(item.arg for item in given[:1]))
    scope = Scope(names, declared, own, local, (), _made(function, declared), owner)
    inputs = [item.arg for item in given[1:] if function.name == "forward" and _may_be_tensor(item)]
    return replace(scope, shared=_shared(function, scope, inputs))


def _made(function: Function, declared: Collection[str]) -> set[str]:
    """Local names that are assigned nothing but displays, comprehensions and results of what makes tensors."""
    values, stored = _assigned(function)
    given = {item.arg for item in ast.walk(function.args) if isinstance(item, ast.arg)}
    return {
        name
        for name, found in values.items()
        if stored[name] == len(found) and name not in given and name not in declared and all(map(_is_new, found))
    }


def _assigned(function: Function) -> tuple[dict[str, list[ast.expr]], Counter[str]]:
    """What is assigned to single names, by name; and how often each name is stored to, however that is."""
    values: dict[str, list[ast.expr]] = {}
    stored = Counter[str]()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            values.setdefault(node.targets[0].id, []).append(node.value)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            stored[node.id] += 1
    return values, stored


def _is_new(value: ast.expr | None) -> bool:
    if isinstance(value, (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)):
        return True
    if not isinstance(value, ast.Call):
        return False
    name = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
    return name in _MAKES


def _may_be_tensor(argument: ast.arg) -> bool:
    return argument.annotation is None or "Tensor" in ast.unparse(argument.annotation)


def _shared(function: Function, scope: Scope, inputs: Iterable[str]) -> set[str]:
    """Inputs that are never assigned anew, and names that are assigned to what the function's object holds."""
    assigned, stored = _assigned(function)
    added = Counter(
        node.target.id
        for node in ast.walk(function)
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)
    )
    found = {name for name in inputs if stored[name] == added[name]}
    for name, values in assigned.items():
        only = stored[name] == added[name] + len(values)
        if only and all(_is_held(value, scope) for value in values):
            found.add(name)
    return found


def _is_held(value: ast.expr | None, scope: Scope) -> bool:
    """Whether an expression is a tensor or container that the function's object holds."""
    return isinstance(value, ast.Attribute) and scope.is_own(value) and isinstance(scope.value(dotted(value)), _MUTABLE)


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
        return f"changes {ast.unparse(node)}" if scope.outlives(node.value) or node.attr == "data" else ""
    if isinstance(node, ast.Subscript) and not _is_made_here(node.value, scope):
        return f"writes into {ast.unparse(node.value)}"
    return ""


def _is_made_here(node: ast.AST, scope: Scope) -> bool:
    """Whether an expression makes something, or is a local name that means nothing but what the function makes."""
    if isinstance(node, ast.Name):
        return node.id in scope.made
    return isinstance(node, ast.BinOp) or (isinstance(node, ast.Call) and _is_new(node))


def _decides(node: ast.AST, scope: Scope) -> str:
    test = getattr(node, "test", None) if isinstance(node, (ast.If, ast.While, ast.Assert, ast.IfExp)) else None
    if test is None or not any(_is_value(part, scope) for part in _asked(test)):
        return ""
    return f"branches on the value of a tensor: {ast.unparse(test)}"


def _asked(test: ast.expr) -> Iterator[ast.expr]:
    """What the truth of a condition is asked of."""
    if isinstance(test, ast.BoolOp):
        for part in test.values:
            yield from _asked(part)
    elif is_not(test):
        yield from _asked(test.operand)
    elif isinstance(test, ast.Compare):
        yield from (test.left, *test.comparators)
    else:
        yield test


def _is_value(node: ast.expr, scope: Scope) -> bool:
    """Whether an expression is a number that a tensor's method gives."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in _REDUCTIONS:
        return False
    owner = scope.value(dotted(node.func.value))
    return owner is torch or not isinstance(owner, ModuleType)


def _takes_value(node: ast.AST, scope: Scope) -> str:
    """``math.exp(x.mean())`` and ``torch.tensor(x.mean())``."""
    if not isinstance(node, ast.Call) or len(node.args) != 1 or not _is_value(node.args[0], scope):
        return ""
    function = scope.value(dotted(node.func))
    of_math = getattr(function, "__module__", "") == "math"
    found = of_math or function in (torch.tensor, torch.as_tensor)
    return f"takes the value of a tensor: {ast.unparse(node)}" if found else ""


def _calls_method(node: ast.AST, scope: Scope) -> str:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return ""
    method, owner = node.func.attr, dotted(node.func.value)
    attribute = isinstance(node.func.value, ast.Attribute) and scope.is_own(node.func.value)
    if method.endswith("_") and not method.endswith("__") and not method.startswith("_"):
        is_function = isinstance(scope.value(owner), ModuleType) and bool(node.args)
        if not _is_made_here(node.args[0] if is_function else node.func.value, scope):
            return f"writes in place: {ast.unparse(node)}"
    held = attribute or scope.is_global(node.func.value)
    if method in _ADDING and held and not isinstance(scope.value(owner), torch.Tensor):
        return f"changes {owner}"
    if method in _REGISTERS and scope.is_own(node.func.value):
        return f"changes {owner}: {ast.unparse(node)}"
    if method in ("sample", "rsample") and not node.args:
        return f"draws random numbers: {ast.unparse(node)}"
    if method in _DRAWING_METHODS and owner != "torch":
        return f"draws random numbers: {ast.unparse(node)}"
    if method in _VALUES and not node.args and owner.partition(".")[0] not in ("np", "numpy"):
        return f"takes the value of a tensor: {ast.unparse(node)}"
    return ""


def _converts(node: ast.AST, scope: Scope) -> str:
    if not isinstance(node, ast.Call) or dotted(node.func) not in _CONVERSIONS or len(node.args) != 1:
        return ""
    reduced = node.args[0].func if isinstance(node.args[0], ast.Call) else None
    found = isinstance(reduced, ast.Attribute) and reduced.attr in _REDUCTIONS
    return f"takes the value of a tensor: {ast.unparse(node)}" if found else ""


def _calls_in_place(node: ast.AST, scope: Scope) -> str:
    if not isinstance(node, ast.Call):
        return ""
    name = dotted(node.func)
    if (name in ("setattr", "delattr") or name.endswith("__setattr__")) and node.args and scope.outlives(node.args[0]):
        return f"changes {ast.unparse(node.args[0])}: {ast.unparse(node)}"
    if name in _PUSHES and node.args and scope.outlives(node.args[0]):
        return f"changes {ast.unparse(node.args[0])}: {ast.unparse(node)}"
    for keyword in node.keywords:
        literal = isinstance(keyword.value, ast.Constant) and keyword.value.value
        if keyword.arg == "out" or (keyword.arg == "inplace" and literal is True):
            return f"writes in place: {ast.unparse(node)}"
    return ""


def _adds_in_place(node: ast.AST, scope: Scope) -> str:
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id in scope.shared:
        return f"writes in place: {ast.unparse(node)}"
    return ""


def _draws(node: ast.AST, scope: Scope) -> str:
    if not isinstance(node, ast.Call):
        return ""
    name = dotted(node.func)
    kind = kind_of_function(scope.value(name))
    if kind is FindingKind.PYTHON_RANDOM:
        return f"draws random numbers in Python: {ast.unparse(node)}"
    if kind is FindingKind.TIME:
        return f"reads a clock: {ast.unparse(node)}"
    function = _name_in_torch(scope.value(name))
    if function in _DRAWS:
        return f"draws random numbers: {ast.unparse(node)}"
    if name.rpartition(".")[2] in _SEEDS and name.startswith("torch."):
        return f"sets the random state: {ast.unparse(node)}"
    if function in _DROPS and _is_on(node, *_DROPS[function]):
        return f"drops values in eval mode too: {ast.unparse(node)}"
    return ""


def _name_in_torch(function: Any) -> str:
    """The name of a function of torch or torch.nn.functional, "" for any other."""
    name = str(getattr(function, "__name__", ""))
    known = (getattr(place, name, None) for place in (torch, torch.nn.functional) if name)
    return name if any(function is item for item in known) else ""


def _is_on(call: ast.Call, position: int, default: bool) -> bool:
    """Whether a call drops values whatever the mode of the model."""
    named = [item.value for item in call.keywords if item.arg in ("training", "train")]
    given = [*named, *call.args[position : position + 1]]
    if not given:
        return default
    if isinstance(given[0], ast.Constant):
        return bool(given[0].value)
    words = (getattr(part, "attr", getattr(part, "id", "")) for part in ast.walk(given[0]))
    return "training" not in words


def _custom_function(node: ast.AST, scope: Scope) -> str:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "apply":
        owner = node.func.value.func if isinstance(node.func.value, ast.Call) else node.func.value
        found = scope.value(dotted(owner))
        if isinstance(found, type) and issubclass(found, torch.autograd.Function):
            return f"calls a torch.autograd.Function, whose backward would be lost: {ast.unparse(node)}"
    return ""


def _block(node: ast.AST, scope: Scope) -> str:
    call = node.context_expr if isinstance(node, ast.withitem) else None
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call = node.value if dotted(node.value.func).endswith("set_grad_enabled") else None
    return _BLOCKS.get(dotted(call.func).rpartition(".")[2], "") if isinstance(call, ast.Call) else ""


_FINDERS: tuple[Callable[[ast.AST, Scope], str], ...] = (
    _stores, _decides, _takes_value, _calls_method, _converts, _calls_in_place, _adds_in_place, _draws,
    _custom_function, _block,
)  # fmt: skip
