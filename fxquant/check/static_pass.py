"""The source that the example did not reach: what it would do to a graph if another input did reach it."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from fxquant.check.finding import FindingKind
from fxquant.check.observation import Observation, Place
from fxquant.check.risky_source import dotted, resolve, risks, scope_of
from fxquant.check.source_tree import Function, SourceFile, own_nodes
from fxquant.check.user_frames import Places, is_installed
from fxquant.check.watched_functions import kind_of_function

# Conditions that hold in other compilers only.
_ELSEWHERE = ("is_scripting", "is_tracing", "is_compiling", "is_exporting", "is_dynamo_compiling", "TYPE_CHECKING")
_DEPTH = 3

Lines = Mapping[CodeType, set[int]]


class StaticPass:
    """Reads the functions that ran, and those that their unreached lines would call.

    Args:
        model: the model that ran.
        lines: by code object of the user's functions, the lines that ran.
        reached: the same, with those that ran in the other mode.
        places: knows the sources.
        seen: (file, line) where something was seen when the model ran.
    """

    def __init__(
        self, model: nn.Module, lines: Lines, reached: Lines, places: Places, seen: Collection[tuple[str, int]] = ()
    ) -> None:
        self.model = model
        self.seen = seen
        self.lines = lines
        self.reached = reached
        self.places = places
        self.observations: dict[Observation, None] = {}
        self._read = set(reached)
        self._owners = _owners(model)
        self._globals: dict[str, dict[str, Any]] = {}
        self._homes = _files_of_classes(model)

    def run(self) -> list[Observation]:
        """What was found, in the order of the source."""
        by_file: dict[str, set[int]] = {}
        for code, ran in self.reached.items():
            by_file.setdefault(code.co_filename, set()).update(ran)  # functions may have others in them
        for code in self.reached:
            function = self._function(code)
            if function is not None:
                self._read_function(function, code, by_file[code.co_filename], _DEPTH)
        for _, kind in sorted(
            {(type(module).__qualname__, type(module)) for module in self.model.modules()}, key=_name
        ):
            self._read_whole(inspect.getattr_static(kind, "forward", None), _DEPTH)
        return list(self.observations)

    def on_lines_that_ran(self) -> list[Observation]:
        """Reads of ``self.training``, and calls that draw numbers or read clocks without Python noticing."""
        found = []
        for code, ran in self.lines.items():
            file = self.places.sources.file(code.co_filename)
            function = file.function_at(code) or file.lambda_at(code)
            names = self._names_in(code, function) if function is not None else {}
            nodes = own_nodes(function) if function is not None else ()
            for node in (node for node in nodes if isinstance(node, ast.expr) and node.lineno in ran):
                kind = self._kind_of(node, code, names)
                if kind is not None:
                    place = self._place(file, node.lineno, code, file.source_of(node))
                    value = str(self.model.training) if kind is FindingKind.TRAINING else ""
                    found.append(Observation(kind, place, value))
        return found

    def _kind_of(self, node: ast.expr, code: CodeType, names: Mapping[str, Any]) -> FindingKind | None:
        if isinstance(node, ast.Attribute) and node.attr == "training" and isinstance(node.ctx, ast.Load):
            return FindingKind.TRAINING
        if isinstance(node, ast.Call):
            found = self._resolved(dotted(node.func), code, names)
            return kind_of_function(found) if found is not None else None
        return None

    # -- functions ----------------------------------------------------------------------------------

    def _function(self, code: CodeType) -> Function | None:
        return self.places.sources.file(code.co_filename).function_at(code)

    def _names_in(self, code: CodeType, function: Function | ast.Lambda) -> dict[str, Any]:
        """What names mean in a function: the globals of its file, and what it imports itself."""
        path = code.co_filename
        if path not in self._globals:
            self._globals[path] = _globals_of(path)
        package = str(self._globals[path].get("__package__") or "")
        return {**self._globals[path], **_imported_in(function, package)}

    def _read_whole(self, function: Any, depth: int) -> None:
        """Read a function of the user's that did not run at all."""
        code = getattr(inspect.unwrap(function), "__code__", None)
        if depth == 0 or code is None or code in self._read or not self.places.user.owns(code):
            return
        self._read.add(code)
        found = self._function(code)
        if found is not None:
            self._read_function(found, code, set(), depth)

    def _read_function(self, function: Function, code: CodeType, ran: set[int], depth: int) -> None:
        if is_installed(code.co_filename) and code.co_filename not in self._homes:
            return  # what every model of a library runs through
        file = self.places.sources.file(code.co_filename)
        names = self._names_in(code, function)
        owner = self._owners.get(code)
        scope = scope_of(function, names, owner[1] if owner is not None else None)
        for statement in _unreached(function.body, ran):
            self._add(statement, file, code, risks(statement, scope))
        for node in _perhaps_unreached(function, ran):
            line = self.places.sources.file(code.co_filename).path, getattr(node, "lineno", 0)
            if line not in self.seen:
                self._add(node, file, code, (item for item in risks(node, scope) if not item.startswith("writes")))
        for part in ast.walk(function):
            if isinstance(part, ast.Attribute) and scope.is_own(part):  # a table of methods
                self._read_whole(self._method(part.attr, code), depth - 1)
            if isinstance(part, ast.Call):
                self._read_whole(self._called(part, code, names), depth - 1)
                if dotted(part.func) == "getattr" and len(part.args) > 1 and scope.is_own(part.args[0]):
                    self._read_methods(part.args[1], code, depth - 1)

    def _add(self, node: ast.AST, file: SourceFile, code: CodeType, clauses: Iterable[str]) -> None:
        for clause in clauses:
            place = self._place(file, getattr(node, "lineno", 0), code, "")
            self.observations[Observation(FindingKind.UNREACHED, place, clause)] = None

    def _method(self, name: str, code: CodeType) -> FunctionType | None:
        """The function behind a method or a property of the object that a function belongs to."""
        owner = self._owners.get(code)
        found = inspect.getattr_static(type(owner[1]), name, None) if owner is not None else None
        found = found.fget if isinstance(found, property) else getattr(found, "func", found)  # of a cached property
        return found if isinstance(found, FunctionType) else None

    def _inherited(self, name: str, code: CodeType) -> Any:
        """What ``super().name`` means in a method."""
        owner = self._owners.get(code)
        kinds = iter(type(owner[1]).__mro__ if owner is not None else ())
        for kind in kinds:
            if any(_code_of(value) is code for value in vars(kind).values()):
                break
        return next((vars(kind)[name] for kind in kinds if name in vars(kind)), None)

    def _read_methods(self, name: ast.expr, code: CodeType, depth: int) -> None:
        """Read the methods that a call may mean by a name that is made when it runs: ``getattr(self, f"run_{x}")``."""
        owner = self._owners.get(code)
        if isinstance(name, ast.Constant) or owner is None:
            return
        parts = name.values if isinstance(name, ast.JoinedStr) else []
        start = parts[0].value if parts and isinstance(parts[0], ast.Constant) else ""
        for key, value in vars(type(owner[1])).items():
            if isinstance(value, FunctionType) and start and key.startswith(str(start)):
                self._read_whole(value, depth)

    def _called(self, call: ast.Call, code: CodeType, names: Mapping[str, Any]) -> Any:
        """The function of the user's that a call means by its name, None where that is not known."""
        if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "super()":
            found = self._inherited(call.func.attr, code)
        else:
            found = self._resolved(dotted(call.func), code, names)
        if isinstance(found, nn.Module):
            return inspect.getattr_static(type(found), "forward", None)
        found = getattr(found, "__func__", found)
        return found if isinstance(found, FunctionType) else None

    def _resolved(self, name: str, code: CodeType, names: Mapping[str, Any]) -> Any:
        """What a dotted name in a function means, None where that is not known."""
        owner = self._owners.get(code)
        if name.startswith("self."):
            return resolve(name, {"self": owner[1]}) if owner is not None else None
        return resolve(name, names) if name else None

    def _place(self, file: SourceFile, line: int, code: CodeType, expression: str) -> Place:
        owner = self._owners.get(code)
        return Place(file.path, line, file.line(line), owner[0] if owner is not None else "", expression)


def _unreached(block: list[ast.stmt], ran: set[int]) -> Iterator[ast.stmt]:
    """The statements of a block, and of the blocks in it, of which no line ran."""
    for statement in block:
        blocks = [getattr(statement, name, []) for name in ("body", "orelse", "finalbody", "handlers")]
        arms = [case.body for case in statement.cases] if isinstance(statement, ast.Match) else []
        inner = [item for part in (*blocks, *arms) for item in part]
        lines = _own_lines(statement, inner)
        if not lines & ran and not isinstance(statement, (ast.Raise, ast.FunctionDef, ast.ClassDef)):
            yield statement
        if isinstance(statement, ast.If) and any(word in ast.unparse(statement.test) for word in _ELSEWHERE):
            inner = statement.orelse
        if not isinstance(statement, ast.ClassDef):
            for item in inner:
                yield from _unreached(item.body if isinstance(item, ast.ExceptHandler) else [item], ran)


def _perhaps_unreached(function: Function, ran: set[int]) -> Iterator[ast.AST]:
    """What may not have run although something on its line did: ``if a: b``, ``b if a else c``, ``a and b``."""
    for node in ast.walk(function):
        if getattr(node, "lineno", 0) not in ran:
            continue
        if isinstance(node, (ast.If, ast.For, ast.While)):
            yield from (item for item in node.body if item.lineno == node.lineno)
        elif isinstance(node, ast.Match):
            yield from (item for case in node.cases for item in case.body if item.lineno == case.pattern.lineno)
        elif isinstance(node, ast.IfExp):
            yield from (node.body, node.orelse)
        elif isinstance(node, ast.BoolOp):
            yield from node.values[1:]


def _own_lines(statement: ast.stmt, inner: list[Any]) -> set[int]:
    last = min((item.lineno for item in inner), default=(statement.end_lineno or statement.lineno) + 1) - 1
    return set(range(statement.lineno, max(last, statement.lineno) + 1))


def _owners(model: nn.Module) -> dict[CodeType, tuple[str, nn.Module]]:
    """Path and module of the first module whose class has a method, by the method's code."""
    found: dict[CodeType, tuple[str, nn.Module]] = {}
    for path, module in model.named_modules():
        for kind in type(module).__mro__:
            if kind.__module__.startswith("torch."):
                break
            for value in vars(kind).values():
                code = _code_of(value)
                if code is not None:
                    found.setdefault(code, (path, module))
    return found


def _code_of(value: Any) -> CodeType | None:
    """The code of a method or a property, past its decorators."""
    value = value.fget if isinstance(value, property) else value
    return getattr(inspect.unwrap(value) if callable(value) else value, "__code__", None)


def _globals_of(path: str) -> dict[str, Any]:
    """The globals of the module that a file holds."""
    owner = next((item for item in list(sys.modules.values()) if getattr(item, "__file__", None) == path), None)
    return dict(vars(owner)) if owner is not None else {}


def _imported_in(function: Function | ast.Lambda, package: str) -> dict[str, Any]:
    """What a function imports itself, by the names it gives them, as far as it is loaded."""
    names: dict[str, Any] = {}
    for node in ast.walk(function):
        for alias in node.names if isinstance(node, ast.Import) else ():
            whole = alias.name if alias.asname else alias.name.partition(".")[0]
            if whole in sys.modules:
                names[alias.asname or whole] = sys.modules[whole]
        if isinstance(node, ast.ImportFrom) and (package or not node.level):
            home = sys.modules.get(importlib.util.resolve_name("." * node.level + (node.module or ""), package))
            names.update({alias.asname or alias.name: getattr(home, alias.name, None) for alias in node.names})
    return names


def _name(item: tuple[str, type]) -> str:
    return item[0]


def _files_of_classes(model: nn.Module) -> set[str | None]:
    kinds = set(map(type, model.modules()))
    return {getattr(sys.modules.get(kind.__module__), "__file__", None) for kind in kinds}
