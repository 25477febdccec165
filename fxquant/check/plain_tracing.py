"""What plain ``torch.fx`` makes of a model: nothing, or the first line that stops it."""

from __future__ import annotations

import ast
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import fx, nn

from fxquant.capture.copy_module import copy_module
from fxquant.check.finding import FindingKind
from fxquant.check.observation import Observation
from fxquant.check.user_frames import Places

_K = FindingKind
_FX = os.path.dirname(fx.__file__) + os.sep
# Parts of torch.fx's messages, and what they mean. Source: torch/fx/proxy.py, torch/fx/_symbolic_trace.py and CPython's
# conversions, as of torch 2.13 and Python 3.11.
_MEANINGS = (
    ("int() argument must be", _K.SIZE),
    ("float() argument must be", _K.SIZE),
    ("doesn't define __round__", _K.SIZE),
    ("must be real number, not", _K.SIZE),
    ("cannot be interpreted as an integer", _K.SIZE),
    ("slice indices must be integers", _K.SIZE),
    ("'len' is not supported", _K.SIZE),
    ("Proxy object cannot be iterated", _K.UNPACKING),
    ("takes 1 positional argument but", _K.FACTORY),
    ("`__cuda_array_interface__` must be a dict", _K.FACTORY),
    ("requires a floating point input type", _K.FACTORY),
    ("does not support item assignment", _K.ITEM_ASSIGNMENT),
    ("invalid __array_struct__", _K.TENSOR_NUMPY),
    ("is not installed as a submodule", _K.MODULE_IN_FORWARD),
)
# Kinds that are errors for no other reason than that plain tracing stops there.
_STOPS = frozenset((_K.ITEM_ASSIGNMENT, _K.UNPACKING, _K.FACTORY))


@dataclass(frozen=True)
class PlainTracing:
    """What torch.fx says.

    Attributes:
        error: its message, "" when it traces the model.
        stopped: where, None when it traces the model or stops in no line of the user's.
        passed: (file, line) of the user's lines that it traces.
        assigns: whether it writes values of the graph into items of constants, which it does without stopping.
    """

    error: str = ""
    stopped: Observation | None = None
    passed: frozenset[tuple[str, int]] = frozenset()
    assigns: bool = False

    def disproves(self, seen: Observation) -> bool:
        """Whether plain tracing goes past what was said to stop it."""
        if seen.kind is _K.ITEM_ASSIGNMENT and self.assigns:
            return False
        return seen.kind in _STOPS and (seen.place.file, seen.place.line) in self.passed


def trace_plainly(model: nn.Module, places: Places) -> PlainTracing:
    """Trace a copy of ``model`` as torch.fx does."""
    ran: set[tuple[str, int]] = set()
    tracer, text, stopped, behind = fx.Tracer(), "", None, set[tuple[str, int]]()
    try:
        with _noting_lines(ran, places):
            tracer.trace(copy_module(model))
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        place = places.of_error(error)
        kind = next((kind for part, kind in _MEANINGS if part in str(error)), _K.PLAIN_TRACING)
        if not _raised_by_user(error, places):
            kind = _K.PLAIN_TRACING
        stopped = Observation(kind, place, "" if kind is _K.SIZE else text) if place.file else None
        behind = _lines_of(error)
    passed = frozenset(line for line in ran - behind if not _is_match(line, places))
    return PlainTracing(text, stopped, passed, _assigns(tracer))


def _is_match(line: tuple[str, int], places: Places) -> bool:
    """Whether a line is one of a ``match``, whose patterns a proxy fails without stopping."""
    file, number = line
    return isinstance(places.sources.file(file).statement_at(number), ast.Match)


def _assigns(tracer: fx.Tracer) -> bool:
    nodes = tracer.graph.nodes if hasattr(tracer, "graph") else ()
    return any("setitem" in str(node.target) for node in nodes)


@contextmanager
def _noting_lines(ran: set[tuple[str, int]], places: Places) -> Iterator[None]:
    """Add the user's lines that run to ``ran``."""

    def on_line(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        ran.add((frame.f_code.co_filename, frame.f_lineno))
        return on_line

    was = sys.gettrace()
    sys.settrace(lambda frame, *_: on_line if places.user.owns(frame.f_code) else None)
    try:
        yield
    finally:
        sys.settrace(was)


def _lines_of(error: Exception) -> set[tuple[str, int]]:
    """The lines that an error came through."""
    return {(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)}


def _raised_by_user(error: Exception, places: Places) -> bool:
    """Whether it was the user's line, and not a library that it called, that torch.fx stopped at."""
    innermost, trace = None, error.__traceback__
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(_FX):
            innermost = trace.tb_frame
        trace = trace.tb_next
    return innermost is not None and places.user.owns(innermost.f_code)
