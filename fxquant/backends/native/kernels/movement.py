"""Data movement and selection on the integers themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.backends.native.kernels.base import from_integers, integers_of
from fxquant.numerics.conv_geometry import as_tuple
from fxquant.ops import catalogue


def on_integers(name: str, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Run a catalogue operator that only moves or selects on the integers of ``x``.

    Args:
        name: catalogue name.
        x: uint8 quantized tensor; args and kwargs follow it in the operator's call.

    Returns:
        What the operator returns, its numbers with the scale and zero point of ``x``.
    """
    made = target_of(name)(integers_of(x), *args, **kwargs)
    return _each(made, torch.uint8, lambda part: from_integers(part, x.q_scale(), x.q_zero_point()))


def through_float(name: str, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Run a catalogue operator that torch has for floats only, and that moves, selects or adds zeros.

    Such numbers come back to the integers they came from: this is exact.
    """
    made = target_of(name)(x.dequantize(), *args, **kwargs)
    return _each(made, torch.float32, lambda part: _quantize_like(part, x))


def pad_integers(x: Tensor, pad: Any, fill: int) -> Tensor:
    """``F.pad`` with a constant; ``fill`` is its integer."""
    return from_integers(F.pad(integers_of(x), pad, "constant", fill), x.q_scale(), x.q_zero_point())


def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """``F.pixel_shuffle`` by whichever of torch's kernels is the faster one for the memory layout of ``x``."""
    if x.is_contiguous():
        return F.pixel_shuffle(x, upscale_factor)
    made: Tensor = on_integers("pixel_shuffle", x, upscale_factor)
    return made


def resize_nearest(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``F.interpolate`` by nearest neighbours: torch's own for images, on the integers for others and single pixels.

    torch reads single pixels in the wrong order when their strides could mean either layout; they get plain ones.
    """
    single = x.shape[2:].numel() == 1
    if x.dim() == 4 and not single:
        resized: Tensor = F.interpolate(x, *args, **kwargs)
        return resized
    integers = integers_of(x)
    if single:
        integers = integers.contiguous().as_strided(x.shape, (x.shape[1],) + (1,) * (x.dim() - 1))
    return from_integers(F.interpolate(integers, *args, **kwargs), x.q_scale(), x.q_zero_point())


def resize(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``F.interpolate`` in float32, in channels last, where it is vectorised over channels.

    With ``antialias`` torch is wrong in channels last when the result is one column wide, so not then. torch's own int8
    resize takes five times as long: see ``benchmarks/image_kernels.py``.
    """
    numbers = x.dequantize()
    if numbers.dim() == 4:
        layout = torch.contiguous_format if kwargs.get("antialias") else torch.channels_last
        numbers = numbers.contiguous(memory_format=layout)
    return _quantize_like(F.interpolate(numbers, *args, **kwargs), x)


def unfold(x: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    """``F.unfold`` as one strided view of the padded integers.

    Args:
        x: uint8 quantized tensor [N, C, H, W] or [C, H, W]; the rest as for ``F.unfold``.

    Returns:
        uint8 quantized tensor [N, C*kH*kW, L] or [C*kH*kW, L].
    """
    (k_h, k_w), (d_h, d_w), (p_h, p_w), (s_h, s_w) = (as_tuple(v, 2) for v in (kernel_size, dilation, padding, stride))
    integers = integers_of(x).contiguous()
    if p_h or p_w:
        integers = F.pad(integers, (p_w, p_w, p_h, p_h), value=x.q_zero_point())
    *outer, height, width = integers.shape
    *steps, step_h, step_w = integers.stride()
    rows, columns = (height - d_h * (k_h - 1) - 1) // s_h + 1, (width - d_w * (k_w - 1) - 1) // s_w + 1
    windows = integers.as_strided(
        (*outer, k_h, k_w, rows, columns),
        (*steps, step_h * d_h, step_w * d_w, step_h * s_h, step_w * s_w),
        integers.storage_offset(),
    )
    flat = windows.reshape(*outer[:-1], outer[-1] * k_h * k_w, rows * columns)
    return from_integers(flat, x.q_scale(), x.q_zero_point())


def target_of(name: str) -> Callable[..., Any]:
    """The function that a catalogue row calls.

    Args:
        name: catalogue name.
    """
    row = catalogue.by_name(name)
    assert row is not None
    if isinstance(row.target, str):
        method: Callable[..., Any] = getattr(Tensor, row.target)
        return method
    return row.target


def _quantize_like(numbers: Tensor, x: Tensor) -> Tensor:
    return torch.quantize_per_tensor(numbers, x.q_scale(), x.q_zero_point(), torch.quint8)


def _each(made: Any, dtype: torch.dtype, wrap: Callable[[Tensor], Tensor]) -> Any:
    """Wrap the parts of a result that hold numbers; positions stay as they are."""
    if isinstance(made, (tuple, list)):
        return tuple(_each(part, dtype, wrap) for part in made)
    return wrap(made) if made.dtype == dtype else made
