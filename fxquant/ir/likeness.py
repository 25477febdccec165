"""A text that is the same for inputs that a model cannot tell apart: functions, modules, configurations, sets."""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_DEPTH = 6
_MOST = 2000  # elements of a container
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def likeness(value: Any, depth: int = _DEPTH) -> str:
    """What tells a value from others, itself and all that it holds: its class, its name, its contents.

    Args:
        value: anything.
        depth: how far to look into it.
    """
    if isinstance(value, Tensor):
        return _of_tensor(value)
    if isinstance(value, np.ndarray):
        return _of_tensor(torch.from_numpy(value)) if value.dtype != object else f"array {value.tolist()!r}"
    if isinstance(value, (type, np.dtype)) or not _parts(value):
        return _ADDRESS.sub("", repr(value))
    parts = _parts(value)[:_MOST] if depth else []
    texts = [f"{name}={likeness(part, depth - 1)}" for name, part in parts]
    texts = sorted(texts) if isinstance(value, (set, frozenset)) else texts
    return f"{_name(value)}({', '.join(texts)})"


def _name(value: Any) -> str:
    named = value if isinstance(value, FunctionType) else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """What a value is made of, by names."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        return [("", item) for item in value]
    if isinstance(value, functools.partial):
        return [("", value.func), *(("", item) for item in value.args), *value.keywords.items()]
    if isinstance(value, MethodType):
        return [("", value.__func__), ("", value.__self__)]
    if isinstance(value, FunctionType):
        code, cells = value.__code__, [cell.cell_contents for cell in value.__closure__ or () if cell != type(cell)()]
        kept = [("", item) for item in (*cells, *(value.__defaults__ or ()))]
        return [
            ("code", code.co_code.hex()),
            ("names", repr(code.co_names)),
            ("constants", repr(code.co_consts)),
            *kept,
        ]
    if isinstance(value, nn.Module):
        return [*value.named_parameters(), *value.named_buffers(), ("modules", repr(value)), ("mode", value.training)]
    return list(_attributes(value))


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        names = vars(kind).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else tuple(names):
            if not name.startswith("__") and hasattr(value, name):
                yield name, getattr(value, name)


def _of_tensor(tensor: Tensor) -> str:
    shown = f"{tensor.dtype}{tuple(tensor.shape)}"
    if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_complex() or tensor.is_quantized:
        return shown
    numbers = tensor.detach().double()
    return f"{shown} {float(numbers.sum()):.12g} {float(numbers.abs().sum()):.12g}"
