"""Whether statements that could run as Python by themselves change what is used outside of them too."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import lru_cache

from torch import Tensor

from fxquant.capture.branches import function_name
from fxquant.capture.cut_function import Cut
from fxquant.capture.parsed_files import tree_of
from fxquant.ir.effects import RANDOM

# Methods of lists, dictionaries, sets and queues that change them.
_CHANGING = frozenset(
    ("append", "appendleft", "extend", "extendleft", "insert", "pop", "popleft", "popitem", "clear", "update",
     "setdefault", "remove", "discard", "add", "sort", "reverse", "rotate")
)  # fmt: skip
_SETTERS = frozenset(("setattr", "delattr", "__setattr__", "register_buffer", "register_parameter", "add_module"))
# Builtins that change nothing.
_PURE = frozenset(
    ("abs", "all", "any", "bool", "dict", "divmod", "enumerate", "float", "int", "isinstance", "len", "list", "max",
     "min", "pow", "range", "reversed", "round", "slice", "sorted", "str", "sum", "tuple", "zip")
)  # fmt: skip


def shares_state(cut: Cut, no_containers: Collection[str], tables: bool) -> bool:
    """Whether a part sets attributes, or changes containers, that are used outside it too, ``__init__`` excepted.

    A part has the attributes of its modules for itself: what it sets, nobody else would see; and what containers hold
    is built into the graph around it. Methods that it calls belong to it. Another class's ``self`` is another object,
    unless the class is derived from this one.

    Args:
        cut: the part.
        no_containers: see ``FloatRegions``.
        tables: see ``_changed_containers``: what reads a table by sizes asks for sizes too, and becomes a part.
    """
    tree = tree_of(cut.code.co_filename)
    containers, spaces = _changed_by(cut, tables)
    if tree is None:
        return bool(cut.attributes_set)
    if (spaces and _is_read_elsewhere(spaces, cut, tree)) or _sets_by_name(cut, tree):
        return True
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    methods = [item for kind in classes for item in kind.body if isinstance(item, ast.FunctionDef)]
    called = _methods_called(cut, methods)
    names = cut.attributes_set.union(*map(_attributes_set, called))
    inside_methods = [node for node in _changed_containers(called, tables) if isinstance(node, ast.Attribute)]
    names |= (containers | {node.attr for node in inside_methods}) - set(no_containers)
    if not names:
        return False
    names |= {item.name for item in called}
    lines = [] if cut.expression is not None else [(cut.first_line, cut.last_line)]  # what else is there is outside
    own_lines = [*lines, *((item.lineno, item.end_lineno or 0) for item in called)]
    owner = cut.code.co_qualname.rpartition(".")[0].rpartition(".")[2]
    for kind in classes:
        related = owner in (kind.name, *(getattr(base, "id", "") for base in kind.bases))
        for function in [item for item in kind.body if isinstance(item, ast.FunctionDef) and item.name != "__init__"]:
            for node in [item for item in ast.walk(function) if isinstance(item, ast.Attribute)]:
                own = isinstance(node.value, ast.Name) and node.value.id == _first_argument(function) and not related
                inside = any(first <= node.lineno <= last for first, last in own_lines)
                if node.attr in names and not own and not inside:
                    return True
    return False


def _is_read_elsewhere(names: Collection[str], cut: Cut, tree: ast.AST) -> bool:
    """Whether a function in a file reads some globals in other lines than those of a part."""
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.Lambda))]
    read = (
        node for function in functions for node in ast.walk(function) if isinstance(node, ast.Name) and node.id in names
    )
    return any(not cut.first_line <= node.lineno <= cut.last_line for node in read)


def _sets_by_name(cut: Cut, tree: ast.AST) -> bool:
    """Whether a part, or a function of its file that it calls, sets attributes by names that are computed."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name != "forward"]
    return any(_called_in(node) & _SETTERS for node in (*cut.statements, *_reached(cut, functions, _called_in)))


def _methods_called(cut: Cut, methods: list[ast.FunctionDef]) -> list[ast.FunctionDef]:
    """The methods that a part calls by name, and those that they call."""
    return _reached(cut, [item for item in methods if item.name != "forward"], _methods_called_in)


def _reached(
    cut: Cut, functions: list[ast.FunctionDef], names_in: Callable[[ast.AST], set[str]]
) -> list[ast.FunctionDef]:
    """Those among some functions that a part calls, and that these call, by the names of what is called in each."""
    found: dict[ast.FunctionDef, None] = {}
    waiting: list[ast.AST] = list(cut.statements)
    while waiting:
        names = names_in(waiting.pop())
        new = [item for item in functions if item.name in names and item not in found]
        found.update(dict.fromkeys(new))
        waiting += new
    return list(found)


def _called_in(code: ast.AST) -> set[str]:
    """Names of the functions and methods that code calls."""
    return {function_name(node.func) for node in ast.walk(code) if isinstance(node, ast.Call)}


def _methods_called_in(code: ast.AST) -> set[str]:
    calls = [node.func for node in ast.walk(code) if isinstance(node, ast.Call)]
    return {function.attr for function in calls if isinstance(function, ast.Attribute)}


def _attributes_set(function: ast.FunctionDef) -> set[str]:
    """Names of attributes that a method sets on its object."""
    me = _first_argument(function)
    stored = [
        node for node in ast.walk(function) if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load)
    ]
    return {node.attr for node in stored if isinstance(node.value, ast.Name) and node.value.id == me}


def _first_argument(function: ast.FunctionDef) -> str:
    return function.args.args[0].arg if function.args.args else "self"


@lru_cache(maxsize=1024)
def computes_only(cut: Cut) -> bool:
    """Whether a part changes nothing: it sets local names, and calls functions of torch's and of Python's alone."""
    return not any(map(_is_set, cut.nodes)) and _calls_harmless_code(cut)


@lru_cache(maxsize=1024)
def keeps_nothing(cut: Cut) -> bool:
    """Whether a part that is given data alone does the same in every call.

    It may also set items of what local names hold, but draws no numbers.
    """
    local = cut.code.co_varnames
    places = (node.value if isinstance(node, ast.Subscript) else node for node in cut.nodes if _is_set(node))
    calls = (function_name(node.func) for node in cut.nodes if isinstance(node, ast.Call))
    sets_own = all(isinstance(place, ast.Name) and place.id in local for place in places)
    return sets_own and RANDOM.isdisjoint(calls) and _calls_harmless_code(cut)


def _is_set(node: ast.AST) -> bool:
    return isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load)


def _calls_harmless_code(cut: Cut) -> bool:
    me = cut.code.co_varnames[:1]
    return all(_is_harmless(node, me) for node in cut.nodes if isinstance(node, ast.Call))


def _is_harmless(call: ast.Call, me: tuple[str, ...]) -> bool:
    function = call.func
    if isinstance(function, ast.Name):  # objects may have code of their own for these
        given = (part.id for item in call.args for part in ast.walk(item) if isinstance(part, ast.Name))
        return function.id in _PURE and not any(name in me for name in given)
    if not isinstance(function, ast.Attribute) or function.attr.endswith("_") or function.attr in _CHANGING:
        return False
    owner = function.value
    of_torch = isinstance(owner, ast.Name) and owner.id in ("torch", "F", "math")
    return of_torch or (hasattr(Tensor, function.attr) and not (isinstance(owner, ast.Name) and owner.id == "self"))


def _changed_by(cut: Cut, tables: bool) -> tuple[set[str], set[str]]:
    """Names of attributes, and of globals, whose containers a part may change; and of globals that it sets."""
    found = list(_changed_containers(cut.statements, tables))
    local = {*cut.code.co_varnames, *cut.code.co_cellvars, *cut.code.co_freevars}
    attributes = {node.attr for node in found if isinstance(node, ast.Attribute)}
    names = {node.id for node in found if isinstance(node, ast.Name)} | cut.used.stored
    return attributes, names - local


def _changed_containers(statements: Iterable[ast.AST], tables: bool) -> Iterator[ast.expr]:
    """What statements set items of, or call methods of that change lists, dictionaries and sets.

    Args:
        statements: of a function, or functions.
        tables: whether what they set by a key that is computed, ``self.table[size] = x``, is among it.
    """
    for node in (node for statement in statements for node in ast.walk(statement)):
        owner = changed_in(node, tables)
        if owner is not None:
            yield owner


def changed_in(node: ast.AST, tables: bool) -> ast.expr | None:
    """What a statement sets items of, or calls a method of that changes lists, dictionaries and sets.

    Args:
        node: of the source.
        tables: as for ``shares_state``.
    """
    if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
        return node.value if tables or isinstance(node.slice, ast.Constant) else None
    method = node.func if isinstance(node, ast.Call) else None
    if not isinstance(method, ast.Attribute) or method.attr not in _CHANGING:
        return None
    return method.value if tables or method.attr != "setdefault" else None
