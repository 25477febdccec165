"""Which integers an observer's dtype stands for."""

from __future__ import annotations

import torch

from fxquant.errors import ConfigError

_PLAIN_DTYPES = {"quint8": torch.uint8, "qint8": torch.int8, "qint32": torch.int32, "quint4x2": torch.uint8}
_FLOAT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_RANGES = {
    torch.uint8: (0, 255),
    torch.int8: (-128, 127),
    torch.int16: (-(2**15), 2**15 - 1),
    torch.int32: (-(2**31), 2**31 - 1),
}


def plain_dtype(dtype: torch.dtype) -> torch.dtype:
    """The plain integer (or float) dtype for a dtype, whose quantized spellings are known by name.

    Args:
        dtype: uint8, int8, int16, int32, a float dtype, or one of PyTorch's quantized dtypes.

    Raises:
        ConfigError: none of those.
    """
    plain = _PLAIN_DTYPES.get(str(dtype).removeprefix("torch."), dtype)
    if plain not in _RANGES and plain not in _FLOAT_DTYPES:
        raise ConfigError(f"no observer can quantize to {dtype}", remedy="use torch.uint8 or torch.int8")
    return plain


def quant_range(
    dtype: torch.dtype, quant_min: int | None, quant_max: int | None, reduce_range: bool
) -> tuple[int, int]:
    """Smallest and largest integer: the dtype's own where not given, halved when reduced.

    Args:
        dtype: as the user wrote it, so that a 4-bit dtype gets 0..15.
        quant_min: smallest integer, at most 0, or None.
        quant_max: largest integer, at least 0, or None.
        reduce_range: give up one bit: uint8 0..127, int8 -64..63.

    Raises:
        ConfigError: the dtype is not an integer one; the range is empty, lacks 0, or does not fit.
    """
    plain = plain_dtype(dtype)
    if plain not in _RANGES:
        raise ConfigError(
            f"{dtype} has no integer range to observe",
            remedy="use torch.uint8 or torch.int8, or a PlaceholderObserver for floating-point dtypes",
        )
    smallest, largest = (0, 15) if "quint4" in str(dtype) else _RANGES[plain]
    low = smallest if quant_min is None else quant_min
    high = largest if quant_max is None else quant_max
    if reduce_range:
        low, high = low // 2, high // 2
    if not (smallest <= low <= 0 <= high <= largest and low < high):
        raise ConfigError(
            f"integers {low}..{high} are no range of {dtype}, which goes from {smallest} to {largest}",
            remedy="give quant_min and quant_max within the dtype's range and with 0 between them",
        )
    return low, high
