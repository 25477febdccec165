"""What containers and objects hold, to tell whether a call changed them."""

from __future__ import annotations

import functools
from collections import deque
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn

_LEAVES = (type, nn.Module, Tensor)
_FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType, functools.partial)


def contents(item: Any, depth: int) -> Any:
    """What an object or a container holds, as nested lists; a tensor that is written into stays the same.

    Args:
        item: anything.
        depth: how far to look into it.
    """
    if isinstance(item, np.ndarray):
        return item.tobytes()
    if not depth or isinstance(item, _LEAVES):
        return item
    if isinstance(item, dict):
        return [contents(part, depth - 1) for pair in item.items() for part in pair]
    if isinstance(item, (list, tuple, set, deque)):
        return [contents(part, depth - 1) for part in item]
    attributes = getattr(item, "__dict__", None)
    if isinstance(attributes, dict) and not isinstance(item, _FUNCTIONS):
        return [contents(part, depth - 1) for pair in attributes.items() for part in pair]
    return item


def same_contents(left: Any, right: Any) -> bool:
    """Whether two results of ``contents`` are of the same things."""
    if type(left) is list and type(right) is list:
        return len(left) == len(right) and all(map(same_contents, left, right))
    return left is right or (isinstance(left, (bytes, str, int, float)) and type(left) is type(right) and left == right)
