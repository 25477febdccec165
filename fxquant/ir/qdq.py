"""``fxquant::quantize``, ``fxquant::dequantize`` and ``fxquant::choose_qparams`` as torch operators.

They are what a reference model is made of: plain uint8/int8 tensors in and out, any device, the same
rounding as the kernels (multiply by the reciprocal, round half to even). Being torch operators they keep
their identity in traces, exports and files.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.numerics import affine
from fxquant.numerics.dynamic import choose_dynamic_qparams

_library = torch.library.Library("fxquant", "DEF")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "quantize(Tensor x, Tensor scale, Tensor zero_point, int quant_min, int quant_max, "
    "ScalarType dtype, int? axis=None) -> Tensor"
)
_library.define(  # type: ignore[no-untyped-call]
    "dequantize(Tensor q, Tensor scale, Tensor zero_point, int? axis=None, ScalarType? dtype=None) -> Tensor"
)
_library.define(  # type: ignore[no-untyped-call]
    "choose_qparams(Tensor x, int quant_min, int quant_max) -> (Tensor, Tensor)"
)


def _quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
    axis: int | None = None,
) -> Tensor:
    return affine.quantize(x, scale, zero_point, quant_min, quant_max, dtype, axis)


def _dequantize(
    q: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    return affine.dequantize(q, scale, zero_point, axis, dtype or torch.float32)


_library.impl("quantize", _quantize, "CompositeImplicitAutograd")  # type: ignore[no-untyped-call]
_library.impl("dequantize", _dequantize, "CompositeImplicitAutograd")  # type: ignore[no-untyped-call]
_library.impl("choose_qparams", choose_dynamic_qparams, "CompositeImplicitAutograd")  # type: ignore[no-untyped-call]

quantize = torch.ops.fxquant.quantize.default
dequantize = torch.ops.fxquant.dequantize.default
choose_qparams = torch.ops.fxquant.choose_qparams.default
