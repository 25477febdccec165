"""The source that the example did not reach: what it would do to a graph if another input did reach it."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from fxquant.check.finding import FindingKind
from fxquant.check.observation import Observation, Place
from fxquant.check.risky_source import dotted, resolve, risks
from fxquant.check.source_tree import Function, SourceFile
from fxquant.check.user_frames import Places

# Conditions that hold in other compilers only.
_ELSEWHERE = ("is_scripting", "is_tracing", "is_compiling", "is_exporting", "is_dynamo_compiling", "TYPE_CHECKING")
_DEPTH = 3


class StaticPass:
    """Reads the functions that ran, and those that their unreached lines would call.

    Args:
        model: the model that ran.
        lines: by code object of the user's functions, the lines that ran.
        places: knows the sources.
    """

    def __init__(self, model: nn.Module, lines: Mapping[CodeType, set[int]], places: Places) -> None:
        self.model = model
        self.lines = lines
        self.places = places
        self.observations: dict[Observation, None] = {}
        self._read = set(lines)
        self._owners = _owners(model)

    def run(self) -> list[Observation]:
        """What was found, in the order of the source."""
        for code, ran in self.lines.items():
            function = self._function(code)
            if function is not None:
                self._read_function(function, code, ran, _DEPTH)
        for _, kind in sorted({(type(module).__qualname__, type(module)) for module in self.model.modules()}, key=_name):
            self._read_whole(inspect.getattr_static(kind, "forward", None), _DEPTH)
        return list(self.observations)

    def training_reads(self) -> list[Observation]:
        """Where lines that ran read ``self.training``."""
        found = []
        for code, ran in self.lines.items():
            function, file = self._function(code), self.places.sources.file(code.co_filename)
            for node in ast.walk(function) if function is not None else ():
                if isinstance(node, ast.Attribute) and node.attr == "training" and node.lineno in ran:
                    if isinstance(node.ctx, ast.Load):
                        place = self._place(file, node.lineno, code, file.source_of(node))
                        found.append(Observation(FindingKind.TRAINING, place, str(self.model.training)))
        return found

    # -- functions ----------------------------------------------------------------------------------

    def _function(self, code: CodeType) -> Function | None:
        return self.places.sources.file(code.co_filename).function_at(code)

    def _read_whole(self, function: Any, depth: int) -> None:
        """Read a function of the user's that did not run at all."""
        code = getattr(inspect.unwrap(function), "__code__", None)
        if depth == 0 or code is None or code in self._read or not self.places.user.owns(code.co_filename):
            return
        self._read.add(code)
        found = self._function(code)
        if found is not None:
            self._read_function(found, code, set(), depth)

    def _read_function(self, function: Function, code: CodeType, ran: set[int], depth: int) -> None:
        file = self.places.sources.file(code.co_filename)
        names = _globals_of(code.co_filename)
        declared = {name for node in ast.walk(function) if isinstance(node, ast.Global) for name in node.names}
        for statement in _unreached(function.body, ran):
            for clause in risks(statement, names, declared):
                place = self._place(file, statement.lineno, code, "")
                self.observations[Observation(FindingKind.UNREACHED, place, clause)] = None
        for part in ast.walk(function):
            if isinstance(part, ast.Call):
                self._read_whole(self._called(part, code, names), depth - 1)

    def _called(self, call: ast.Call, code: CodeType, names: Mapping[str, Any]) -> Any:
        """The function of the user's that a call means by its name, None where that is not known."""
        name, owner = dotted(call.func), self._owners.get(code)
        if name.startswith("self.") and owner is not None:
            found = resolve(name, {"self": owner[1]})
            if isinstance(found, nn.Module):
                return inspect.getattr_static(type(found), "forward", None)
            return getattr(found, "__func__", None)
        found = resolve(name, names) if name else None
        return found if isinstance(found, FunctionType) else None

    def _place(self, file: SourceFile, line: int, code: CodeType, expression: str) -> Place:
        owner = self._owners.get(code)
        return Place(file.path, line, file.line(line), owner[0] if owner is not None else "", expression)


def _unreached(block: list[ast.stmt], ran: set[int]) -> Iterator[ast.stmt]:
    """The statements of a block, and of the blocks in it, of which no line ran."""
    for statement in block:
        blocks = [getattr(statement, name, []) for name in ("body", "orelse", "finalbody", "handlers")]
        inner = [item for part in blocks for item in part]
        lines = _own_lines(statement, inner)
        if not lines & ran and not isinstance(statement, (ast.Raise, ast.FunctionDef, ast.ClassDef)):
            yield statement
        if isinstance(statement, ast.If) and any(word in ast.unparse(statement.test) for word in _ELSEWHERE):
            inner = statement.orelse
        if not isinstance(statement, ast.ClassDef):
            for item in inner:
                yield from _unreached(item.body if isinstance(item, ast.ExceptHandler) else [item], ran)


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
                code = getattr(inspect.unwrap(value) if callable(value) else value, "__code__", None)
                if code is not None:
                    found.setdefault(code, (path, module))
    return found


def _globals_of(path: str) -> Mapping[str, Any]:
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == path:
            return vars(module)
    return {}


def _name(item: tuple[str, type]) -> str:
    return item[0]
