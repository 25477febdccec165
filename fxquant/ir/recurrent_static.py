"""Recurrent layers on ranges known before: rounded inputs, rounded states, and a range for what each gate gets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from fxquant.ir.recurrent import Recurrent
from fxquant.numerics.affine import fake_quantize, quantize
from fxquant.numerics.recurrent import Recurrence


class StaticRecurrent(Recurrent):
    """A recurrent layer whose matrix products are sums of integers; states of cells stay float32.

    The sums are exact, so whoever computes them gets the same numbers.

    Args:
        recurrence: what it is.
        tensors: by the names that the module has: ``weight_ih_l0`` int8 [out, in] with ``weight_ih_l0_scale`` float32
            [out] or [], ``bias_ih_l0`` float32 [out]; and for each of ``recurrence.places`` ``place_scale`` float32 []
            and ``place_zero_point`` int64 [].
    """

    def __init__(self, recurrence: Recurrence, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(recurrence)
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    @abstractmethod
    def sums(self, name: str, integers: Tensor, zero_point: Tensor) -> Tensor:
        """Products with a weight's integers, summed exactly and rounded once to float32.

        Args:
            name: of the weight.
            integers: uint8 [n, in].
            zero_point: int64 [], subtracted from them.

        Returns:
            float32 [n, out].
        """

    def product(self, name: str, x: Tensor) -> Tensor:
        """Round ``x`` by its range and multiply."""
        scale, zero_point = self._range(f"{name}_input")
        integers = quantize(x, scale, zero_point, 0, 255, torch.uint8)
        found = self.sums(name, integers, zero_point) * (scale * self.get_buffer(f"{name}_scale"))
        bias: Tensor | None = getattr(self, name.replace("weight", "bias"), None)
        return found if bias is None else found + bias

    def gate(self, name: str, x: Tensor) -> Tensor:
        """What a gate gets, rounded by its range."""
        return fake_quantize(x, *self._range(name), 0, 255, torch.uint8)

    def _range(self, place: str) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"{place}_scale"), self.get_buffer(f"{place}_zero_point")
