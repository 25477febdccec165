"""The observer that averages the smallest and largest values over batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxquant.errors import ConfigError
from fxquant.observers.base import RangeObserver, check_finite


class MovingAverageMinMaxObserver(RangeObserver):
    """Averages each batch's minimum and maximum, ``m + c * (batch - m)``; the first batch counts in full.

    Args:
        averaging_constant: c, the weight of a new batch, above 0 and at most 1.
        dtype: see ``RangeObserver``, as all that follow.
        qscheme: per tensor, affine or symmetric.
        *args: ``reduce_range``, ``quant_min``, ``quant_max``.
        **kwargs: the same by name, ``eps``, ``factory_kwargs``, and ``is_dynamic``, which goes only with an
            ``averaging_constant`` of 1.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3.1.
    """

    def __init__(
        self,
        averaging_constant: float = 0.01,
        dtype: torch.dtype = torch.uint8,
        qscheme: torch.qscheme = torch.per_tensor_affine,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype, qscheme, *args, **kwargs)
        self.averaging_constant = checked_averaging_constant(averaging_constant)
        if self.is_dynamic and averaging_constant != 1:
            raise ConfigError(
                f"dynamic quantization keeps no average, and averaging_constant is {averaging_constant}",
                remedy="use averaging_constant=1",
            )

    def _observe(self, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        check_finite(low, high)
        low, high = low.to(self.min_val.device), high.to(self.max_val.device)
        if self.has_seen_data:
            low = self.min_val + self.averaging_constant * (low - self.min_val)
            high = self.max_val + self.averaging_constant * (high - self.max_val)
        self.min_val, self.max_val = low, high


def checked_averaging_constant(averaging_constant: float) -> float:
    """Returns the constant.

    Raises:
        ConfigError: it is not above 0 and at most 1.
    """
    if not 0 < averaging_constant <= 1:
        raise ConfigError(f"averaging_constant is {averaging_constant}", remedy="give a weight above 0 and at most 1")
    return averaging_constant
