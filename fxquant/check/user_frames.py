"""Which frame of a running model is the user's, and where in the source it stands."""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from fxquant.check.observation import Place
from fxquant.check.source_tree import SourceFile, Sources, Span, span_of

_TORCH = os.path.dirname(torch.__file__) + os.sep
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_OWN_USER_CODE = os.path.join(_OWN, "demo") + os.sep
_STANDARD = sysconfig.get_paths()["stdlib"] + os.sep
_INSTALLED = (f"site-packages{os.sep}", f"dist-packages{os.sep}")
# torch's Python halves of Tensor methods: a question asked there was asked by their caller.
_TENSOR_METHODS = (os.path.join(_TORCH, "_tensor.py"), os.path.join(_TORCH, "overrides.py"))
# Frames that decorators of torch leave behind, and the variable that holds the decorated function.
_DECORATORS = {"decorate_context": "func", "decorate_autocast": "func"}


def is_installed(path: str) -> bool:
    """Whether a file is an installed package's: its user does not write there."""
    return any(part in path for part in _INSTALLED)


class UserCode:
    """Tells the user's code from that of libraries.

    The user's is what is not installed, and the installed packages that the model's classes come from.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        packages = {type(module).__module__.partition(".")[0] for module in model.modules()} - {"torch", "fxquant"}
        self._packages = tuple(_folder(package) for package in sorted(packages) if _folder(package))
        self._known: dict[str, bool] = {}

    def owns(self, code: CodeType) -> bool:
        """Whether ``code`` is the user's."""
        path = code.co_filename
        if path not in self._known:
            self._known[path] = self._decide(path)
        return self._known[path] and not (
            path.startswith("<") and code.co_name.startswith("__")
        )  # dataclasses make those

    def frame(self, frame: FrameType | None) -> FrameType | None:
        """The innermost of ``frame`` and its callers that runs the user's code, up to the call of the model."""
        while frame is not None and not self.owns(frame.f_code):
            frame = None if frame.f_code.co_filename.startswith(_OWN) else frame.f_back
        return frame

    def asked(self, frame: FrameType | None) -> bool:
        """Whether the call that ``frame`` makes comes from the user's code, with no function of torch in between."""
        while frame is not None and frame.f_code.co_filename.startswith((_OWN, *_TENSOR_METHODS)):
            frame = frame.f_back
        return frame is not None and self.owns(frame.f_code)

    def _decide(self, path: str) -> bool:
        if path.startswith(_OWN):
            return path.startswith(_OWN_USER_CODE)
        if path.startswith((_TORCH, "<frozen", "<eval_with_key>")) or path.endswith(".pyx"):
            return False
        if path.startswith(self._packages):
            return True
        return not path.startswith(_STANDARD) and not is_installed(path)


class Places:
    """Turns frames into places.

    Args:
        model: the model that runs; its modules are known by their paths.
        sources: parsed files.

    Attributes:
        user: tells the user's code.
    """

    def __init__(self, model: nn.Module, sources: Sources) -> None:
        self.user = UserCode(model)
        self.sources = sources
        self._paths = {id(module): path for path, module in model.named_modules()}

    def of(self, frame: FrameType | None) -> Place:
        """The place where ``frame``, or the user's code that called it, stands; empty when it is no user's."""
        code = getattr(self._decorated(frame), "__code__", None)
        if code is not None:  # the decorator acts on the whole function below it
            file = self.sources.file(code.co_filename)
            text = file.line(code.co_firstlineno)
            return Place(file.path, code.co_firstlineno, text, self.module_path(frame), text.removeprefix("@"))
        found = self.user.frame(frame)
        if found is None:
            return Place()
        file = self.sources.file(found.f_code.co_filename)
        expression = expression_text(file, found.f_lineno, span_of(found.f_code, found.f_lasti))
        return Place(file.path, found.f_lineno, file.line(found.f_lineno), self.module_path(found), expression)

    def of_error(self, error: BaseException) -> Place:
        """The innermost line of the user's that an error came through."""
        found, trace, inside = Place(), error.__traceback__, False
        while trace is not None:
            frame, line = trace.tb_frame, trace.tb_lineno
            if inside and self.user.owns(frame.f_code):
                file = self.sources.file(frame.f_code.co_filename)
                expression = expression_text(file, line, span_of(frame.f_code, trace.tb_lasti))
                found = Place(file.path, line, file.line(line), self.module_path(frame), expression)
            inside |= not self.user.owns(frame.f_code)  # past the caller of the checker
            trace = trace.tb_next
        return found

    def module_path(self, frame: FrameType | None) -> str:
        """Path of the innermost module whose method is running."""
        for above in _callers(frame):
            path: str | None = self._paths.get(id(above.f_locals.get("self")))
            if path is not None:
                return path
        return ""

    def path_of(self, module: nn.Module) -> str | None:
        """Path of a module of the model; None for another one."""
        return self._paths.get(id(module))

    def _decorated(self, frame: FrameType | None) -> Any:
        """The user's function that a decorator of torch is about to run in ``frame`` or its callers."""
        for above in _callers(frame):
            if self.user.owns(above.f_code):
                return None
            function = above.f_locals.get(_DECORATORS.get(above.f_code.co_name, ""))
            code = getattr(function, "__code__", None)
            if code is not None and self.user.owns(code):
                return function
        return None


def expression_text(file: SourceFile, line: int, span: Span | None) -> str:
    """What is being computed: the expression at ``span``, else what the statement on ``line`` is about."""
    node = file.expression_at(span) if span is not None else None
    if node is not None:
        return " ".join(file.source_of(node).split())
    statement = file.statement_at(line, span.column if span is not None and span.line == line else None)
    if isinstance(statement, (ast.For, ast.AsyncFor)):
        return file.source_of(statement.iter)
    if isinstance(statement, (ast.With, ast.AsyncWith)):
        return ", ".join(file.source_of(item.context_expr) for item in statement.items)
    if isinstance(statement, (ast.If, ast.While, ast.Assert)):
        return file.source_of(statement.test)
    return file.source_of(statement) if isinstance(statement, (ast.AugAssign, ast.Assign, ast.Expr)) else ""


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _folder(package: str) -> str:
    """The folder of an installed package, "" for single files and what is not imported."""
    paths = list(getattr(sys.modules.get(package), "__path__", ()))
    return str(paths[0]) + os.sep if paths else ""
