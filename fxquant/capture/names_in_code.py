"""Which local names a piece of a function's source reads, sets and may change."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field

_OWN_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SCOPES = (*_OWN_SCOPES, *_COMPREHENSIONS)
_LOOPS = (ast.For, ast.While, ast.AsyncFor)
_ASKED_ONLY = frozenset(("shape", "size", "device", "dtype", "ndim", "dim", "numel"))


@dataclass
class NamesUsed:
    """Names of a piece of source.

    Attributes:
        loaded: read, also in functions and comprehensions inside.
        stored: set or deleted in the scope itself.
        changed: of which a method is called, an item is set, that are set by ``+=``, or that are passed to a call.
        attributes: by name, the attributes taken from it: ``self.scale``; ``None`` among them where it is used itself.
        chains: by name, the attributes taken one of the other: ``self.patches.size`` is ``("patches", "size")``.
    """

    loaded: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    attributes: dict[str, set[str | None]] = field(default_factory=dict)
    chains: dict[str, set[tuple[str, ...]]] = field(default_factory=dict)


def names_used(statements: Iterable[ast.AST]) -> NamesUsed:
    """The names that statements use."""
    visitor = _Visitor()
    for statement in statements:
        visitor.visit(statement)
    return visitor.found


class _Visitor(ast.NodeVisitor):
    def __init__(self) -> None:
        self.found = NamesUsed()
        self.hidden: list[set[str]] = []

    def visit_Name(self, node: ast.Name) -> None:
        if any(node.id in names for names in self.hidden):
            return
        if isinstance(node.ctx, ast.Load):
            self.found.loaded.add(node.id)
            self.found.attributes.setdefault(node.id, set()).add(None)
        elif not self.hidden:
            self.found.stored.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain, inner = [node.attr], node.value
        while isinstance(inner, ast.Attribute):
            chain.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and not any(inner.id in names for names in self.hidden):
            self.found.loaded.add(inner.id)
            self.found.attributes.setdefault(inner.id, set()).add(chain[-1])
            self.found.chains.setdefault(inner.id, set()).add(tuple(reversed(chain)))
        else:
            self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.found.loaded.add(node.target.id)
            self.found.attributes.setdefault(node.target.id, set()).add(None)
            self.found.changed.add(node.target.id)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self._note_change(node.func.value if isinstance(node.func, ast.Attribute) else None)
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            self._note_change(argument)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not isinstance(node.ctx, ast.Load):
            self._note_change(node.value)
        self.generic_visit(node)

    def _note_change(self, node: ast.AST | None) -> None:
        self.found.changed |= {root_of(node)} - {""}

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self.found.stored.add(node.name)
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found.stored.update((item.asname or item.name).partition(".")[0] for item in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.found.stored.update(item.asname or item.name for item in node.names)

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, _COMPREHENSIONS):
            targets = names_used(part.target for part in node.generators).stored
            self._inside(node, targets)
        elif isinstance(node, _OWN_SCOPES):
            name = getattr(node, "name", None)
            if name and not self.hidden:
                self.found.stored.add(name)
            self._inside(node, _own_names(node))
        else:
            super().generic_visit(node)

    def _inside(self, node: ast.AST, names: set[str]) -> None:
        self.hidden.append(names)
        super().generic_visit(node)
        self.hidden.pop()


def _own_names(node: ast.AST) -> set[str]:
    """Names of a nested function's own scope."""
    arguments = getattr(node, "args", None)
    names: set[str] = set()
    if isinstance(arguments, ast.arguments):
        every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
        names = {argument.arg for argument in every if argument is not None}
    body = getattr(node, "body", [])
    return names | (names_used(body).stored if isinstance(body, list) else set())


def declared_global(function: ast.AST) -> set[str]:
    """Names that a function declares to be those of its file."""
    return {name for node in ast.walk(function) if isinstance(node, ast.Global) for name in node.names}


def root_of(node: ast.AST | None) -> str:
    """The name that attributes and items are taken of; "" for other expressions."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def names_in(node: ast.AST, context: type[ast.expr_context] = ast.expr_context) -> set[str]:
    """The names in a piece of source: all of them, or those that are read, set or deleted (``context``)."""
    return {item.id for item in ast.walk(node) if isinstance(item, ast.Name) and isinstance(item.ctx, context)}


def asked_by_name(node: ast.AST) -> tuple[ast.expr, str] | None:
    """What ``getattr(thing, "name")`` or ``hasattr`` asks, and for which attribute; None for anything else."""
    if not isinstance(node, ast.Call) or getattr(node.func, "id", "") not in ("getattr", "hasattr"):
        return None
    thing, key = (*node.args, None, None)[:2]
    return (thing, str(key.value)) if thing is not None and isinstance(key, ast.Constant) else None


def targets_of(node: ast.AST) -> list[ast.expr]:
    """What an assignment sets; nothing where a node is none."""
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, (ast.AnnAssign, ast.NamedExpr)) else []


def leaves_its_place(statements: Iterable[ast.stmt]) -> tuple[bool, bool, bool]:
    """Whether statements return, whether they break out of or continue a loop around them, and whether they yield."""
    returns = jumps = yields = False

    def look(node: ast.AST, in_loop: bool) -> None:
        nonlocal returns, jumps, yields
        returns |= isinstance(node, ast.Return)
        jumps |= isinstance(node, (ast.Break, ast.Continue)) and not in_loop
        yields |= isinstance(node, (ast.Yield, ast.YieldFrom, ast.Await, ast.Global, ast.Nonlocal))
        if isinstance(node, _OWN_SCOPES):
            return
        for child in ast.iter_child_nodes(node):
            look(child, in_loop or isinstance(node, _LOOPS))

    for statement in statements:
        look(statement, False)
    return returns, jumps, yields
