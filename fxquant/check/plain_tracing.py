"""What plain ``torch.fx`` makes of a model: nothing, or the first line that stops it."""

from __future__ import annotations

import os
from dataclasses import dataclass

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


@dataclass(frozen=True)
class PlainTracing:
    """What torch.fx says.

    Attributes:
        error: its message, "" when it traces the model.
        stopped: where, None when it traces the model or stops in no line of the user's.
    """

    error: str = ""
    stopped: Observation | None = None


def trace_plainly(model: nn.Module, places: Places) -> PlainTracing:
    """Trace a copy of ``model`` as torch.fx does."""
    try:
        fx.Tracer().trace(copy_module(model))
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        place = places.of_error(error)
        kind = next((kind for part, kind in _MEANINGS if part in str(error)), _K.PLAIN_TRACING)
        if not _raised_by_user(error, places):
            kind = _K.PLAIN_TRACING
        return PlainTracing(text, Observation(kind, place, text) if place.file else None)
    return PlainTracing()


def _raised_by_user(error: Exception, places: Places) -> bool:
    """Whether it was the user's line, and not a library that it called, that torch.fx stopped at."""
    innermost, trace = None, error.__traceback__
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(_FX):
            innermost = trace.tb_frame
        trace = trace.tb_next
    return innermost is not None and places.user.owns(innermost.f_code)
