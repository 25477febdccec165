"""How the source of a model uses attributes: methods of its classes, and functions that its modules keep."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from types import FunctionType

from torch import nn

from fxquant.capture.names_in_code import asked_by_name
from fxquant.capture.parsed_files import classes_named, function_of
from fxquant.capture.source import is_user_file
from fxquant.capture.trouble import Spot, StatementSpot
from fxquant.ir.own_functions import functions_kept

_GIVE_NOTHING = frozenset(("append", "appendleft", "extend", "insert", "add", "update", "clear", "remove"))
Functions = list[tuple[str, ast.AST]]  # (file, definition)


def functions_of(root: nn.Module) -> Functions:
    """What may run when a model is called: methods, functions that ``__init__`` makes, and hooks."""
    found: dict[int, tuple[str, ast.AST]] = {}
    for kind in dict.fromkeys(type(module) for module in root.modules()):
        for file, tree in _class_trees(kind):
            for item in tree.body:
                if isinstance(item, ast.FunctionDef):
                    found |= {
                        id(node): (file, node) for node in ([item] if item.name != "__init__" else _made_in(item))
                    }
    for function in (*functions_kept(root), *_functions_of_classes(root)):
        file, node = function.__code__.co_filename, function_of(function.__code__)
        if node is not None and is_user_file(file):
            found[id(node)] = file, node
    return list(found.values())


def _functions_of_classes(root: nn.Module) -> Iterator[FunctionType]:
    """Functions that were put into classes from elsewhere, such as another ``forward``."""
    kinds = dict.fromkeys(kind for module in root.modules() for kind in type(module).__mro__)
    for kind in kinds:
        for value in vars(kind).values() if not kind.__module__.startswith("torch.") else ():
            function = inspect.unwrap(value) if callable(value) else getattr(value, "fget", value)
            if isinstance(function, FunctionType) and function.__name__ != "__init__":
                yield function


def _made_in(function: ast.FunctionDef) -> list[ast.AST]:
    """The outermost functions in another."""
    waiting, found = list(ast.iter_child_nodes(function)), list[ast.AST]()
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            found.append(node)
        else:
            waiting += ast.iter_child_nodes(node)
    return found


def _class_trees(kind: type) -> Iterator[tuple[str, ast.ClassDef]]:
    """(file, definition) of a class and those it is derived from, as far as they are the user's."""
    for base in kind.__mro__:
        try:
            file = inspect.getsourcefile(base) or ""
        except TypeError:
            continue
        if file and is_user_file(file):
            yield from ((file, node) for node in classes_named(file, base.__name__))


def first_mention(functions: Functions, name: str) -> tuple[str, int]:
    """The first line that changes, or else mentions, an attribute; ("", 0) where none does."""
    mentions = [
        (not isinstance(parent, (ast.Call, ast.Assign, ast.AugAssign, ast.Subscript)), file, node.lineno)
        for file, function in functions
        for parent in ast.walk(function)
        for node in ast.iter_child_nodes(parent)
        if isinstance(node, ast.Attribute) and node.attr == name
    ]
    return min(mentions)[1:] if mentions else ("", 0)


def spots_of_uses(module: nn.Module, functions: Functions, mentions: Callable[[ast.AST], bool]) -> tuple[Spot, ...]:
    """The statements of a module's forward from the first that mentions something to the last, where no other does.

    Args:
        module: of which it may be a part.
        functions: of the model.
        mentions: whether a node of the source does.
    """
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    forward = function_of(code) if code is not None else None
    if forward is None or code is None:
        return ()
    inside = {id(node) for node in ast.walk(forward)}
    if any(mentions(node) and id(node) not in inside for _, function in functions for node in ast.walk(function)):
        return ()
    found = [item for item in forward.body if any(map(mentions, ast.walk(item)))]
    if not found or found[0] is forward.body[0]:
        return ()
    first, last = found[0], found[-1]
    run = forward.body[forward.body.index(first) : forward.body.index(last) + 1]
    after = forward.body[forward.body.index(last) + 1 :]
    if _decides(run, after):
        last = forward.body[-1]
    where = first.lineno, last.end_lineno or last.lineno, first.col_offset, last.end_col_offset or 0
    return (StatementSpot(code, where),)


def _decides(statements: list[ast.stmt], after: list[ast.stmt]) -> bool:
    """Whether a name that statements set is in a condition after them."""
    names = {
        node.id
        for statement in statements
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    tests = [getattr(node, "test", None) for statement in after for node in ast.walk(statement)]
    return any(isinstance(node, ast.Name) and node.id in names for test in tests if test for node in ast.walk(test))


@dataclass(frozen=True)
class Uses:
    """How functions use an attribute name.

    Attributes:
        read: whether something reads it; to call a method and drop what it gives, ``self.seen.append(x)``, does not.
        counted: whether it is added to, or otherwise updated from what it was.
    """

    read: bool
    counted: bool

    @staticmethod
    def of(functions: Functions, name: str, lines: Collection[tuple[str, int]]) -> Uses:
        """Look at the source.

        Args:
            functions: of the model.
            name: of the attribute.
            lines: (file, line) where it was set; () when that is not known, and every line counts.
        """
        read = counted = False
        for file, function in functions:
            told = {id(node) for statement in ast.walk(function) for node in _told(statement)}
            for node in ast.walk(function):
                load = is_attribute(name, node) and not isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del))
                read |= load and id(node) not in told
                if isinstance(node, (ast.AugAssign, ast.Assign)) and _at(node, file, lines):
                    counted |= _updates(node, name)
        return Uses(read, counted)


def _told(statement: ast.AST) -> Iterator[ast.AST]:
    """What a statement calls a method of, where it drops what that gives; a hook that is a lambda mostly does."""
    call = statement.value if isinstance(statement, ast.Expr) else getattr(statement, "body", None)
    called = call.func if isinstance(call, ast.Call) else None
    if isinstance(called, ast.Attribute) and (isinstance(statement, ast.Expr) or called.attr in _GIVE_NOTHING):
        yield called.value


def _at(node: ast.stmt, file: str, lines: Collection[tuple[str, int]]) -> bool:
    last = node.end_lineno or node.lineno
    return not lines or any(name == file and node.lineno <= line <= last for name, line in lines)


def _updates(node: ast.AugAssign | ast.Assign, name: str) -> bool:
    """Whether a statement sets an attribute to something made of what it was."""
    if isinstance(node, ast.AugAssign):
        return is_attribute(name, node.target)
    return any(is_attribute(name, target) for target in node.targets) and any(
        is_attribute(name, part) for part in ast.walk(node.value)
    )


def is_attribute(name: str, node: ast.AST) -> bool:
    """Whether a node of the source is an attribute of a name, or asks for one by it: ``getattr(self, "n", 0)``."""
    if isinstance(node, ast.Attribute):
        return node.attr == name
    asked = asked_by_name(node)
    return asked is not None and asked[1] == name
