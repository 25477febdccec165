"""Embedding tables of a model in quantization-aware training, and what else is rounded as it arrives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fxquant.numerics.affine import dequantize
from fxquant.numerics.dynamic import choose_dynamic_qparams
from fxquant.numerics.qparams import choose_qparams
from fxquant.observers.fake_quantize import FakeQuantize
from fxquant.observers.rounding import fake_quantize_tensor
from fxquant.observers.switches import is_on
from fxquant.passes.quantize_tables import quantize_rows
from fxquant.passes.round_weight import PassedThrough


class TrainedTable(nn.Module):
    """Gives an embedding table as its integers hold it, row by row.

    Args:
        fake: the fake-quantize module of the table.
        mode: ``weights`` (8 bits) or ``weights4``.
        name: of the unit, for messages.
    """

    def __init__(self, fake: FakeQuantize, mode: str, name: str) -> None:
        super().__init__()
        self.fake, self.mode, self.name = fake, mode, name

    def start(self, table: Tensor) -> None:
        """Begin with the ranges of a table as it is, [rows, columns] float; see ``TrainedWeight.start``."""
        if bool(torch.isfinite(table).all()):
            self.fake.weight_qparams(table.detach().to(torch.float32))

    def forward(self, table: Tensor) -> Tensor:
        """Round ``table``, [rows, columns] float; gradients pass.

        Raises:
            ConvertError: the fake-quantize module gives no scale per row.
        """
        if not is_on(self.fake, "fake_quant_enabled"):
            return table
        with torch.inference_mode(False), torch.no_grad():
            integers, scale, zero_point = quantize_rows(
                table.detach().to(torch.float32), self.fake, self.mode, self.name
            )
            rounded = dequantize(integers, scale, zero_point, 0)
        result: Tensor = PassedThrough.apply(table, rounded.to(table.dtype))  # type: ignore[no-untyped-call]
        return result


def round_arriving(x: Tensor) -> Tensor:
    """Round ``x``, any shape and floating, to 0..255 of its own range, as dynamic kernels do when it arrives."""
    scale, zero_point = choose_dynamic_qparams(x, 0, 255)
    return fake_quantize_tensor(x, scale.reshape(1), zero_point.reshape(1).to(torch.int32), 0, 255)


def round_constant(x: Tensor) -> Tensor:
    """Round a constant of the model, any shape and floating, to 0..255 of its own range, as kernels store it."""
    with torch.no_grad():
        low, high = x.min().reshape(1), x.max().reshape(1)
        scale, zero_point = choose_qparams(low, high, 0, 255, symmetric=False)
    return fake_quantize_tensor(x, scale, zero_point.to(torch.int32), 0, 255)


def round_half(weight: Tensor) -> Tensor:
    """Round a weight, any shape, to float16 and back."""
    largest = torch.finfo(torch.float16).max
    return weight.clamp(-largest, largest).to(torch.float16).to(weight.dtype)
