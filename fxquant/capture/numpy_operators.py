"""Operators of Python between a number or array of NumPy's and a tensor: eager leaves them to the tensor.

NumPy asks the tensor first because of its ``__array_priority__``. Proxies have ``__array_ufunc__``, so that functions
of NumPy's see them, and NumPy calls that for its operators too.
"""

from __future__ import annotations

import dis
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from fxquant.capture.source import user_frame

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add, "subtract": operator.sub, "multiply": operator.mul, "divide": operator.truediv,
    "true_divide": operator.truediv, "floor_divide": operator.floordiv, "remainder": operator.mod,
    "power": operator.pow, "matmul": operator.matmul, "equal": operator.eq, "not_equal": operator.ne,
    "less": operator.lt, "less_equal": operator.le, "greater": operator.gt, "greater_equal": operator.ge,
    "bitwise_and": operator.and_, "bitwise_or": operator.or_, "bitwise_xor": operator.xor,
}  # fmt: skip


def numpy_operator(function: Any, args: tuple[Any, ...]) -> Callable[[Any, Any], Any] | None:
    """The operator that the user's code applies where NumPy calls a function of its own; None for a call of that.

    Args:
        function: NumPy's.
        args: the operands; the second is the tensor.
    """
    frame = user_frame()
    if frame is None or len(args) != 2 or not isinstance(args[0], (np.generic, np.ndarray)):
        return None
    running = dis.opname[frame.f_code.co_code[frame.f_lasti]]
    return _OPERATORS.get(function.__name__) if running in ("BINARY_OP", "COMPARE_OP") else None
