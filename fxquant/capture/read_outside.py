"""What code outside of a part that runs as Python reads: a graph has that as it was when it was captured.

A part may change attributes and globals in ways that its source does not show, in functions and in methods of other
objects. Here are the names that would matter; whether one of them changes is looked at when the part runs.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

from torch import fx, nn

from fxquant.capture.attribute_uses import functions_of
from fxquant.capture.branches import function_name
from fxquant.capture.names_in_code import asked_by_name
from fxquant.capture.parsed_files import tree_of
from fxquant.ir.float_part import FloatPart
from fxquant.ir.meta import info

_ALWAYS = frozenset(("training", "forward", "_forward_hooks", "_forward_pre_hooks"))
_Function = tuple[str, ast.AST]


@dataclass(frozen=True)
class _Reads:
    """What one function reads.

    Attributes:
        own: (name, line) of attributes of its first argument; others: of anything else.
        names: (name, line) of variables.
    """

    own: tuple[tuple[str, int], ...]
    others: tuple[tuple[str, int], ...]
    names: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class _Outside:
    """What code outside of a part reads.

    Attributes:
        every: attributes, of its own object or of others. others: of others alone. names: variables of the part's file.
    """

    every: frozenset[str]
    others: frozenset[str]
    names: frozenset[str]


def watch_parts(root: nn.Module, graph: fx.Graph, parts: Iterable[FloatPart]) -> None:
    """Tell the parts of a graph what code around them reads.

    Args:
        root: the copy that was traced.
        graph: of it.
        parts: that it calls.
    """
    parts = [part for part in parts if part.first_line and part.learns]
    if not parts:
        return
    traced = {info(node).origin.module_path for node in graph.nodes}
    functions = functions_of(root)
    known: dict[tuple[str, int, int], _Outside] = {}  # every layer has the same parts
    for part in parts:
        place = part.file, part.first_line, part.last_line
        if place not in known:
            known[place] = _read_outside(*place, [*functions, *_functions_in(part.file)])
        _watch(part, known[place], traced)


def is_read_around(model: nn.Module, path: str) -> bool:
    """Whether code of other modules reads attributes that a module sets in its functions: ``self.gate.hits``.

    Args:
        model: of which it is a part.
        path: of the module.
    """
    if not path:
        return False
    name, own = path.rpartition(".")[2], [node for _, node in functions_of(model.get_submodule(path))]
    inside = set(map(id, own))
    stored = {
        item.attr
        for node in own
        for item in ast.walk(node)
        if isinstance(item, ast.Attribute) and not isinstance(item.ctx, ast.Load)
    }
    others = (node for _, node in functions_of(model) if id(node) not in inside)
    return bool(stored) and any(
        isinstance(item, ast.Attribute)
        and item.attr in stored
        and isinstance(item.ctx, ast.Load)
        and getattr(item.value, "attr", "") == name
        for node in others
        for item in ast.walk(node)
    )


def _watch(part: FloatPart, found: _Outside, traced: Collection[str]) -> None:
    part.globals_read = found.names
    for inner, module in part.named_modules():
        if inner:
            child, _, rest = inner.partition(".")
            path = ".".join(filter(None, (part.child_paths.get(child, ""), rest)))
            of_torch = type(module).__module__.startswith("torch.nn.")
            part.reads[inner] = _ALWAYS if of_torch else found.every if path in traced else found.others


def _read_outside(file: str, first: int, last: int, functions: list[_Function]) -> _Outside:
    """What functions read in other lines than those of a part."""
    called = _called(file, first, last) - {"forward"}
    reads = [(path, _reads_of(node)) for path, node in functions if getattr(node, "name", "") not in called]

    def outside(path: str, found: Iterable[tuple[str, int]]) -> set[str]:
        return {name for name, line in found if path != file or not first <= line <= last}

    others = _ALWAYS.union(*(outside(path, item.others) for path, item in reads))
    own = others.union(*(outside(path, item.own) for path, item in reads))
    names = frozenset[str]().union(*(outside(path, item.names) for path, item in reads if path == file))
    return _Outside(own, others, names)


def _called(file: str, first: int, last: int) -> set[str]:
    """Names of the methods and functions that a part calls: they belong to it."""
    tree = tree_of(file)
    nodes = ast.walk(tree) if tree is not None else ()
    return {function_name(node.func) for node in nodes if isinstance(node, ast.Call) and first <= node.lineno <= last}


@lru_cache(maxsize=64)
def _functions_of_tree(file: str, tree: ast.AST) -> tuple[_Function, ...]:
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    methods = {id(item) for kind in classes for item in kind.body}
    found = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and id(node) not in methods)
    return tuple((file, node) for node in found)


def _functions_in(file: str) -> tuple[_Function, ...]:
    """The functions in a file that are no methods."""
    tree = tree_of(file)
    return () if tree is None else _functions_of_tree(file, tree)


@lru_cache(maxsize=4096)
def _reads_of(function: ast.AST) -> _Reads:
    arguments = getattr(function, "args", None)
    me = arguments.args[0].arg if isinstance(arguments, ast.arguments) and arguments.args else ""
    own, others, names = list[tuple[str, int]](), list[tuple[str, int]](), list[tuple[str, int]]()
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            names.append((node.id, node.lineno))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            is_own = isinstance(node.value, ast.Name) and node.value.id == me
            (own if is_own else others).append((node.attr, node.lineno))
        elif isinstance(node, ast.Call) and (asked := asked_by_name(node)) is not None:
            thing, name = asked
            is_own = isinstance(thing, ast.Name) and thing.id == me
            (own if is_own else others).append((name, node.lineno))
    return _Reads(tuple(own), tuple(others), tuple(names))
