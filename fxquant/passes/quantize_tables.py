"""Integer tables of embeddings: a scale and a float zero point per row.

Before: ``words.weight float32 [rows, columns]``. After: uint8 of the same shape, in 0..255 or 0..15.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.errors import ConvertError
from fxquant.ir.edit import evaluate_constant
from fxquant.ir.quant_plan import Unit
from fxquant.numerics.affine import quantize
from fxquant.observers.fake_quantize import FakeQuantize
from fxquant.ops import catalogue
from fxquant.passes.fold_weights import origins_of
from fxquant.passes.quantize_weights import QuantizedWeight


def quantize_table(unit: Unit, nodes: dict[str, fx.Node], root: nn.Module, observer: Any) -> QuantizedWeight:
    """Quantize the table of an embedding or an embedding bag.

    Args:
        unit: of mode ``weights`` (8 bits) or ``weights4``, whose kernel keeps scale and smallest value of a row as
            float16.
        nodes: nodes of the captured graph by name.
        root: the model the graph refers to.
        observer: a fresh weight observer.

    Raises:
        ConvertError: the observer gives no scale per row.
    """
    node = nodes[unit.anchor]
    source = catalogue.arguments(node, catalogue.row_of(node))["weight"]
    table = evaluate_constant(source, root).to(torch.float32)
    integers, scale, zero_point = quantize_rows(table, observer, unit.mode, unit.name)
    return QuantizedWeight(integers, scale, zero_point, 0, None, origins_of(source))


def quantize_rows(table: Tensor, observer: Any, mode: str, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize a table row by row.

    Args:
        table: float32 [rows, columns].
        observer: a fresh weight observer.
        mode: ``weights`` (8 bits) or ``weights4``.
        name: of the table, for messages.

    Returns:
        uint8 [rows, columns], scale and zero point float32 [rows].

    Raises:
        ConvertError: the observer gives no scale per row.
    """
    if isinstance(observer, FakeQuantize):
        found = observer.weight_qparams(table)
    else:
        observer(table)
        found = observer.calculate_qparams()
    scale, zero_point = (torch.as_tensor(value, dtype=torch.float32) for value in found)
    if scale.numel() != len(table):
        raise ConvertError(
            f"{name}: the table has {len(table)} rows, and its observer gives {scale.numel()} scales",
            op="embedding",
            remedy="use float_qparams_weight_only_qconfig, whose observer runs along axis 0",
        )
    largest = 255
    if mode == "weights4":
        largest = 15
        scale, zero_point = _in_half(scale, zero_point)
    return quantize(table, scale, zero_point, 0, largest, torch.uint8, 0), scale, zero_point


def _in_half(scale: Tensor, zero_point: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point such that the scale, and the value of integer 0, are float16 numbers."""
    smallest = (-zero_point * scale).to(torch.float16).to(torch.float32)
    tiny = torch.finfo(torch.float16).tiny
    scale = scale.clamp(tiny, torch.finfo(torch.float16).max).to(torch.float16).to(torch.float32)
    return scale, -smallest / scale
