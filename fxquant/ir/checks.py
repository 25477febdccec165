"""Run-time checks that a captured graph carries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxquant.errors import FxquantError


def require_equal(value: Any, expected: Any, name: str) -> None:
    """Raise when a flag that was built into the graph arrives with another value.

    Raises:
        FxquantError: ``value`` differs from what the example had.
    """
    if value is not expected and value != expected:
        raise FxquantError(
            f"input {name!r} was {expected!r} when the model was captured and is {value!r} now",
            remedy="prepare the model again with the new value in example_inputs",
        )


def take_integers(x: Tensor, scale: Tensor, zero_point: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Take a quantized input as it is.

    Args:
        x: integers of ``dtype``, any shape.
        scale: float32 [], zero_point: int64 []: what the integers are read with.
        dtype: dtype they must have.
        name: of the input.

    Raises:
        FxquantError: ``x`` is of another dtype.
    """
    if not isinstance(x, Tensor) or x.dtype != dtype:
        raise FxquantError(
            f"input {name!r} is to be {dtype} and is {getattr(x, 'dtype', type(x).__name__)}",
            remedy=f"quantize it first, with scale {float(scale):.8g} and zero point {int(zero_point)}",
        )
    return x
