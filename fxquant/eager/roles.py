"""What quantization does with a module: its part is told by its class, through the operator catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from torch import nn

from fxquant.capture.stubs import DEQUANT, FUNCTIONAL, QUANT, stub_kind
from fxquant.eager.fuse_modules import FusedReLU
from fxquant.fusion.rule import WEIGHTED
from fxquant.ops.opdef import Fixed, FloatOnly, OpDef, Requantize
from fxquant.ops.opened_modules import row_of_module

# They read their children's parameters themselves, so nothing inside them can be replaced.
OPAQUE = (nn.MultiheadAttention,)


class Part(StrEnum):
    """What becomes of a module."""

    QUANTIZE = "quantize"  # QuantStub
    DEQUANTIZE = "dequantize"  # DeQuantStub
    FUNCTIONAL = "functional"  # FloatFunctional
    WEIGHTED = "weighted"  # convolutions and linear: int8 weights
    BATCH_NORM = "batch norm"
    LOOKUP = "lookup"  # a function of one number: a table
    CLIP = "clip"  # keeps its input's range
    STEP = "step"  # computes in float between integers
    TABLE = "table"  # embeddings: integer rows, float results
    RECURRENT = "recurrent"  # layers and cells
    NONE = ""  # is left as it is: it moves integers, or contains other modules


@dataclass(frozen=True)
class Role:
    """The part of one module.

    Attributes:
        part: what becomes of it.
        row: the catalogue row that it computes, None for stubs.
        layer: the module itself, or the one in front of a fused relu.
        relu: whether a relu is fused.
    """

    part: Part
    row: OpDef | None
    layer: nn.Module
    relu: bool = False

    @property
    def fixed(self) -> Fixed | None:
        """The range of its output where that is known before any data."""
        return self.row.output if self.row is not None and isinstance(self.row.output, Fixed) else None

    @property
    def is_observed(self) -> bool:
        """Whether calibration decides about the range of its output."""
        ranged = (Part.QUANTIZE, Part.FUNCTIONAL, Part.WEIGHTED, Part.BATCH_NORM, Part.LOOKUP, Part.STEP)
        return self.part in ranged and self.fixed is None


_STUBS = {QUANT: Part.QUANTIZE, DEQUANT: Part.DEQUANTIZE, FUNCTIONAL: Part.FUNCTIONAL}


def role_of(module: nn.Module) -> Role:
    """The part of a module in a model that is quantized by hand."""
    kind = stub_kind(module)
    if kind:
        return Role(_STUBS[kind], None, module)
    if isinstance(module, FusedReLU):
        inner = role_of(module[0])
        return Role(inner.part, inner.row, module[0], relu=True)
    row = _row(module)
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return Role(Part.NONE if row is None else Part.RECURRENT, row, module)
    return Role(Part.NONE if row is None else _part(module, row), row, module)


def _row(module: nn.Module) -> OpDef | None:
    """The row of the class, or of the class whose forward a subclass keeps."""
    bases = [base for base in type(module).__mro__ if issubclass(base, nn.Module)]
    known = next((base for base in bases if row_of_module(base) is not None), None)
    if known is None or type(module).forward is not known.forward:
        return None
    return row_of_module(known)


def _part(module: Any, row: OpDef) -> Part:
    if row.name in WEIGHTED:
        return Part.WEIGHTED
    if row.name in ("embedding", "embedding_bag"):
        return Part.TABLE
    if row.name == "batch_norm":
        return Part.STEP if module.running_mean is None else Part.BATCH_NORM
    if row.clip is not None:
        return Part.NONE if isinstance(module, nn.ReLU) else Part.CLIP
    if isinstance(row.output, (Requantize, Fixed)) and row.pointwise:
        whole = all(parameter.numel() == 1 for parameter in module.parameters())
        return Part.LOOKUP if whole else Part.STEP
    computes = isinstance(row.output, (Requantize, Fixed, FloatOnly))
    return Part.STEP if computes and len(row.activations) == 1 else Part.NONE
