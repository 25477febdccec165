"""Values of the trace in what is passed on as a constant: partial calls, default arguments, classes, bound methods."""

from __future__ import annotations

import gc
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from fxquant.capture.contents import is_users_class
from fxquant.capture.plain_code import is_literal, is_torchs
from fxquant.capture.source import is_own_file
from fxquant.ir.own_functions import cell_content

_MOST = 300  # things that are looked at


def hides_values(thing: Any) -> bool:
    """Whether something that is no plain container keeps values of the trace."""
    seen, waiting = set[int](), [thing]
    while waiting and len(seen) < _MOST:
        item = waiting.pop()
        if isinstance(item, fx.Proxy):
            return True
        if id(item) not in seen and not is_literal(item):
            seen.add(id(item))
            waiting += _held_by(item)
    return False


def _held_by(item: Any) -> list[Any]:
    if isinstance(item, FunctionType):
        if is_own_file(item.__code__.co_filename):  # stands for one of torch's during a trace
            return []
        cells = [cell_content(cell) for cell in item.__closure__ or ()]
        return [*cells, *(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values()]
    if isinstance(item, type):
        return list(vars(item).values()) if is_users_class(item) else []
    if isinstance(item, np.ndarray):
        return list(item.flat) if item.dtype.hasobject else []
    closed = isinstance(item, (nn.Module, Tensor, ModuleType)) or (
        isinstance(item, BuiltinFunctionType) and is_torchs(item)
    )
    is_ours = type(item).__module__.partition(".")[0] in ("fxquant", "torch")
    return [] if closed or is_ours else gc.get_referents(item)
