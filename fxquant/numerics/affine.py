"""Affine quantization of plain tensors: the integer kernels' arithmetic, in aten operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fxquant.numerics.conv_geometry import per_input_row

_EXACT_IN_FLOAT32 = (torch.uint8, torch.int8, torch.int16)


def quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
    axis: int | None = None,
) -> Tensor:
    """Rounds float values to integers: ``clamp(round_half_even(x * (1/scale)) + zero_point)``.

    The reciprocal is taken in float32 and multiplied, as the kernels do; dividing by the scale differs in
    the last bit and so, at ties, by one integer. A float ``zero_point`` (embedding tables) is added before
    rounding.

    Args:
        x: float values of any shape; float64 is computed in float64, everything else in float32.
        scale: positive; one element, or [C] with ``axis``.
        zero_point: of ``scale``'s shape, in quant_min..quant_max when integer.
        quant_min: smallest integer produced.
        quant_max: largest integer produced.
        dtype: integer dtype of the result.
        axis: the dimension of ``x`` that ``scale`` runs along; None for one scale.

    Returns:
        Integers of ``x``'s shape.

    Source: https://github.com/pytorch/FBGEMM, ``QuantizeAvx2`` (inverse scale, round to nearest even).
    """
    work = x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)
    inverse = _along(1.0 / scale.to(torch.float32), axis, x.shape).to(work.dtype)
    offset = _along(zero_point, axis, x.shape)
    if zero_point.is_floating_point():
        level = torch.round(work * inverse + offset.to(work.dtype))
    else:
        level = torch.round(work * inverse)
        if dtype not in _EXACT_IN_FLOAT32:
            level = level.to(torch.float64)
        level = level + offset.to(level.dtype)
    return torch.clamp(level, quant_min, quant_max).to(dtype)


def dequantize(
    q: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    axis: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Gives back the float values that integers stand for: ``(q - zero_point) * scale``.

    Args:
        q: integers of any shape.
        scale: positive; one element, or [C] with ``axis``.
        zero_point: of ``scale``'s shape.
        axis: the dimension of ``q`` that ``scale`` runs along; None for one scale. Along 1, C may also be the output
            channels of a grouped transposed convolution, a multiple of that dimension.
        dtype: float dtype of the result; half precision is computed in float32 and rounded once.

    Returns:
        Floats of ``q``'s shape.
    """
    work = torch.float32 if q.dtype in _EXACT_IN_FLOAT32 and dtype != torch.float64 else torch.float64
    offset = _along(zero_point, axis, q.shape).to(work)
    step = _along(scale, axis, q.shape).to(work)
    return ((q.to(work) - offset) * step).to(dtype)


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    quant_min: int,
    quant_max: int,
    dtype: torch.dtype,
    axis: int | None = None,
) -> Tensor:
    """Rounds float values to those that can be represented: ``dequantize(quantize(x))``.

    Args:
        x: float values of any shape.
        scale: positive; one element, or [C] with ``axis``.
        zero_point: of ``scale``'s shape.
        quant_min: smallest integer used.
        quant_max: largest integer used.
        dtype: integer dtype in between.
        axis: the dimension of ``x`` that ``scale`` runs along; None for one scale.

    Returns:
        Floats of ``x``'s shape and dtype.
    """
    q = quantize(x, scale, zero_point, quant_min, quant_max, dtype, axis)
    return dequantize(q, scale, zero_point, axis, x.dtype)


def _along(values: Tensor, axis: int | None, shape: Sequence[int]) -> Tensor:
    """Shapes one element to [], or [C] to [1, .., C, .., 1] with C at ``axis`` of a tensor of ``shape``.

    Along axis 1, C may be a multiple of the dimension: a grouped transposed convolution's output channels.
    """
    if axis is None:
        return values.reshape(())
    if axis == 1 and values.numel() != shape[1]:
        return per_input_row(values, shape)
    sizes = [1] * len(shape)
    sizes[axis] = -1
    return values.reshape(sizes)
