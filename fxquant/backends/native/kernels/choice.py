"""Choosing among numbers on integers: the larger, the smaller, by a condition."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fxquant.backends.native.kernels.base import RequantizingKernel, from_integers, integers_of
from fxquant.backends.native.kernels.lookup import Lookup

_EXTREMES = {"maximum": torch.maximum, "fmax": torch.maximum, "minimum": torch.minimum, "fmin": torch.minimum}


@dataclass(frozen=True)
class Operand:
    """One of the two values to choose from.

    Attributes:
        requantize: brings an activation to the output's range; None when it is in it.
        integers: uint8 in the output's range, of any shape: the value of a constant; None for activations.
    """

    requantize: Lookup | None = None
    integers: Tensor | None = None


class Choose(RequantizingKernel):
    """``where``, ``masked_fill``, ``maximum``, ``minimum``: exact, since quantization keeps the order of numbers.

    Args:
        name: of the operator.
        scale, zero_point: of the output.
        first: the value where the condition holds, second: the value elsewhere.
    """

    def __init__(self, name: str, scale: Tensor, zero_point: Tensor, first: Operand, second: Operand) -> None:
        super().__init__(scale, zero_point)
        self.name = name
        for key, operand in (("first", first), ("second", second)):
            self.add_module(f"{key}_requantize", operand.requantize)
            self.register_buffer(f"{key}_integers", operand.integers)
        self.pack()

    def forward(self, *given: Tensor) -> Tensor:
        """Choose from the activations ``given``, uint8 of broadcastable shapes, with the condition before them."""
        rest = list(given)
        condition = None if self.name in _EXTREMES else rest.pop(0)
        first, second = self._take("first", rest), self._take("second", rest)
        chosen = _EXTREMES[self.name](first, second) if condition is None else choose(condition, first, second)
        return from_integers(chosen, self.packed_scale, self.packed_zero_point)

    def _take(self, key: str, rest: list[Tensor]) -> Tensor:
        constant, requantize = getattr(self, f"{key}_integers"), getattr(self, f"{key}_requantize")
        if constant is not None:
            return constant  # type: ignore[no-any-return]
        given = rest.pop(0)
        return integers_of(given if requantize is None else requantize(given))

    def extra_repr(self) -> str:
        """The operator and the output parameters."""
        return f"{self.name}, scale={self.packed_scale:.6g}, zero_point={self.packed_zero_point}"


def choose(condition: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """``torch.where`` for uint8, by bits: five times as fast, because torch's branches on every element.

    Args:
        condition: bool, first, second: uint8; broadcastable shapes.
    """
    bits = condition.to(torch.uint8).neg()
    return torch.bitwise_xor(torch.bitwise_and(torch.bitwise_xor(first, second), bits), second)
