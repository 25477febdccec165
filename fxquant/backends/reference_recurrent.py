"""Recurrent layers and cells in reference models: rounded weights, and inputs and states rounded as they arrive."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.ir.recurrent import Recurrent
from fxquant.ir.recurrent_static import StaticRecurrent
from fxquant.numerics.affine import dequantize, fake_quantize
from fxquant.numerics.dynamic import choose_dynamic_qparams
from fxquant.numerics.recurrent import Recurrence


class ReferenceRecurrent(Recurrent):
    """A recurrent layer in plain aten operations, on any device.

    Inputs are rounded by the range of the whole sequence, states by their range at each step.

    Args:
        recurrence: what it is.
        tensors: by the names that the module has: ``weight_ih_l0`` int8 [out, in] with ``weight_ih_l0_scale`` float32
            [out] or [], or float16 without; ``bias_ih_l0`` float32 [out].
    """

    def __init__(self, recurrence: Recurrence, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(recurrence)
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def product(self, name: str, x: Tensor) -> Tensor:
        """Multiply by a weight as it is stored."""
        weight, bias = self.get_buffer(name), getattr(self, name.replace("weight", "bias"), None)
        if weight.dtype == torch.float16:
            return F.linear(x, weight.float(), bias)
        scale = self.get_buffer(f"{name}_scale")
        zeros = torch.zeros_like(scale, dtype=torch.int64)
        qparams = choose_dynamic_qparams(x, 0, 255)
        rounded = fake_quantize(x, *qparams, 0, 255, torch.uint8)
        return F.linear(rounded, dequantize(weight, scale, zeros, 0 if scale.dim() else None), bias)


class ReferenceStatic(StaticRecurrent):
    """A recurrent layer on ranges known before, in plain aten operations, on any device."""

    def sums(self, name: str, integers: Tensor, zero_point: Tensor) -> Tensor:
        """Summed in float64, which holds every sum of integers."""
        centred = integers.to(torch.float64) - zero_point
        return F.linear(centred, self.get_buffer(name).to(torch.float64)).to(torch.float32)
