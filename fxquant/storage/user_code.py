"""What a file may need of the user's own source: classes, functions, and statements that no graph can hold.

A file keeps their names. Loading looks the names up in modules that Python can import, and nowhere else.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import operator
import sys
from types import BuiltinFunctionType, FunctionType
from typing import Any

from torch import nn

from fxquant.errors import FxquantError
from fxquant.ir.float_part import PartCode

_NOT_USERS = frozenset((*sys.stdlib_module_names, "torch", "fxquant", "numpy", "pip", "setuptools"))


class UserCode:
    """Looks up names of the user's.

    Args:
        allowed: whether files may need any.

    Attributes:
        used: whether this one does.
    """

    def __init__(self, allowed: bool) -> None:
        self.allowed, self.used = allowed, False

    def require(self, names: dict[str, str]) -> None:
        """Import all that a file says it needs.

        Args:
            names: ``module`` or ``module:qualified.name``, with the place that needs it.

        Raises:
            FxquantError: one cannot be imported, or may not be.
        """
        self.used = bool(names)
        for name, where in names.items():
            module, _, path = name.partition(":")
            space = self._import(module, name, where)
            try:
                operator.attrgetter(path or "__name__")(space)
            except AttributeError:
                raise _missing(name, where, f"{module} has no {path}") from None

    def find(self, kind: str, name: str, where: str = "") -> Any:
        """A class or function of the user's.

        Args:
            kind: ``module``, ``autograd``, ``tuple``, ``mapping``, ``container``, ``object`` or ``function``: what it
                must be.
            name: ``module:qualified.name``.
            where: it is needed, for messages.

        Raises:
            FxquantError: it cannot be imported, or may not be.
            ValueError: it is something else.
        """
        module, _, path = name.partition(":")
        space = self._import(module, name, where)
        try:
            found = operator.attrgetter(path)(space)
        except AttributeError:
            raise _missing(name, where, f"{module} has no {path}") from None
        if not _is(kind, found):
            raise ValueError(f"{name} is no {kind}")
        return found

    def part(self, source: str, module: str, file: str, first_line: int, where: str = "") -> PartCode:
        """Statements that run as Python; they must be in the source of the module they are said to be from.

        Raises:
            FxquantError: the module cannot be imported, or does not hold them.
        """
        space = self._import(module, module, where)
        known = {ast.dump(node) for node in ast.walk(_parsed(space, where)) if isinstance(node, ast.stmt)}
        if not all(ast.dump(_as_written(statement)) in known for statement in _statements(source)):
            raise FxquantError(
                f"{where or 'a part of the model'} runs as Python, and {module} does not hold its statements any more",
                remedy="make the version of the source importable that the model was saved with, or quantize it again",
            )
        return PartCode(source, module, file, first_line)

    def _import(self, module: str, name: str, where: str) -> Any:
        self.used = True
        if not self.allowed:
            place = f" for {where}" if where else ""
            raise FxquantError(
                f"the file needs {name.replace(':', '.')} of the user's source{place}, and user_code=False",
                remedy="load it with user_code=True if you trust what is installed under that name",
            )
        if module.partition(".")[0] in _NOT_USERS or not all(part.isidentifier() for part in module.split(".")):
            raise ValueError(f"{module} is no module of the user's")
        try:
            return importlib.import_module(module)
        except ImportError as error:
            raise _missing(name, where, str(error)) from error


def name_of_user(found: Any, where: str) -> str:
    """``module:qualified.name`` of a class or function of the user's.

    Raises:
        FxquantError: it cannot be found again by a name.
    """
    module, path = str(getattr(found, "__module__", "")), str(getattr(found, "__qualname__", ""))
    space = sys.modules.get(module)
    try:
        same = space is not None and operator.attrgetter(path)(space) is found
    except AttributeError:
        same = False
    if not same or module.partition(".")[0] in _NOT_USERS:
        raise FxquantError(
            f"{where} is {module}.{path}, which no other process could find by that name",
            remedy="define it at the top level of a module of yours, or keep it out of the model",
        )
    return f"{module}:{path}"


def is_container(kind: type) -> bool:
    """Whether a class only holds what it is made from: a dataclass, a mapping or a tuple, such as a model's output."""
    return dataclasses.is_dataclass(kind) or issubclass(kind, (dict, tuple))


def is_users(module: str) -> bool:
    """Whether a module is the user's, or another package's than those that files may rely on."""
    return module.partition(".")[0] not in _NOT_USERS


def _is(kind: str, found: Any) -> bool:
    if kind == "function":
        return isinstance(found, (FunctionType, BuiltinFunctionType)) and is_users(str(found.__module__))
    if not isinstance(found, type):
        return False
    if kind == "module":
        return issubclass(found, nn.Module)
    if kind == "container":
        return is_container(found)
    if kind == "autograd":
        return hasattr(found, "apply")
    return issubclass(found, {"tuple": tuple, "mapping": dict, "object": object}[kind])


def _missing(name: str, where: str, why: str) -> FxquantError:
    module = name.partition(":")[0]
    remedy = f"make the module {module} importable: install it, or put its folder on PYTHONPATH"
    if module == "__main__":
        remedy = "define it in a module of its own, not in the script that is run, and save the model again"
    return FxquantError(
        f"the file needs {name.replace(':', '.')}{f' for {where}' if where else ''}, which cannot be imported: {why}",
        remedy=remedy,
    )


def _parsed(space: Any, where: str) -> ast.AST:
    try:
        return ast.parse(inspect.getsource(space))
    except (OSError, TypeError) as error:
        raise FxquantError(
            f"{where or 'a part of the model'} runs as Python, and the source of {space.__name__} is not there",
            remedy="install the module with its source",
        ) from error


def _statements(source: str) -> list[ast.stmt]:
    """The user's statements in the source of a part: without the function around them and what it ends with."""
    tree = ast.parse(source).body
    if len(tree) == 1 and isinstance(tree[0], ast.ClassDef):
        tree = tree[0].body
    if len(tree) != 1 or not isinstance(tree[0], ast.FunctionDef) or tree[0].name != "part":
        raise ValueError("a part that is no function")
    part = tree[0]
    given = part.args
    if part.decorator_list or part.returns or given.defaults or given.kw_defaults or given.vararg or given.kwarg:
        raise ValueError("a part with more than statements")
    if any(item.annotation is not None for item in (*given.args, *given.kwonlyargs, *given.posonlyargs)):
        raise ValueError("a part with more than statements")
    body = part.body
    if len(body) > 1 and ast.unparse(body[-2]) == "_found = locals()" and _gives_names(body[-1]):
        body = body[:-2]
    return body


def _gives_names(statement: ast.stmt) -> bool:
    """Whether it is ``return (_found.get('a'), ...)``."""
    if not isinstance(statement, ast.Return) or not isinstance(statement.value, ast.Tuple):
        return False
    names = [item.args[0].value for item in statement.value.elts if _is_get(item)]  # type: ignore[attr-defined]
    return len(names) == len(statement.value.elts)


def _is_get(item: ast.expr) -> bool:
    if not isinstance(item, ast.Call) or len(item.args) != 1 or item.keywords:
        return False
    return ast.unparse(item.func) == "_found.get" and isinstance(item.args[0], ast.Constant)


def _as_written(statement: ast.stmt) -> ast.stmt:
    """``super()`` again where the part names its class and first argument."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super":
            given = [ast.unparse(item) for item in node.args]
            if len(given) == 2 and given[0] == "__class__":
                node.args = []
    return statement
