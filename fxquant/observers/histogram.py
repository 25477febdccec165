"""The observer that keeps a histogram and gives up outliers where that lowers the error."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fxquant.errors import ConfigError
from fxquant.numerics import add_to_histogram, search_range
from fxquant.observers.base import SYMMETRIC_SCHEMES, RangeObserver, check_finite


class HistogramObserver(RangeObserver):
    """Keeps a histogram of everything observed; its range has the least expected squared quantization error.

    Args:
        bins: number of bins over the range seen so far, at least 1.
        dtype: see ``RangeObserver``, as all that follow.
        qscheme: per tensor, affine or symmetric.
        *args: ``reduce_range``, ``quant_min``, ``quant_max``.
        **kwargs: the same by name, ``eps`` and ``factory_kwargs``.

    Source: see ``fxquant.numerics.search_range``.
    """

    can_be_dynamic: ClassVar[bool] = False

    histogram: Tensor

    def __init__(
        self,
        bins: int = 2048,
        dtype: torch.dtype = torch.uint8,
        qscheme: torch.qscheme = torch.per_tensor_affine,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype, qscheme, *args, **kwargs)
        if bins < 1:
            raise ConfigError(f"a histogram of {bins} bins", remedy="use at least 1 bin; 2048 is the default")
        self.bins = bins
        with torch.inference_mode(False):
            zeros = torch.zeros(bins, dtype=torch.float64, device=self.min_val.device)
            self.register_buffer("histogram", zeros)

    def _observe(self, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        check_finite(low, high)
        self.histogram, new_low, new_high = add_to_histogram(
            self.histogram, float(self.min_val), float(self.max_val), float(low), float(high), x
        )
        self.min_val = torch.full_like(self.min_val, new_low)
        self.max_val = torch.full_like(self.max_val, new_high)

    def _range(self) -> tuple[Tensor, Tensor]:
        levels = self.quant_max - self.quant_min + 1
        symmetric = self.qscheme in SYMMETRIC_SCHEMES
        low, high = search_range(self.histogram, float(self.min_val), float(self.max_val), levels, symmetric=symmetric)
        return torch.full_like(self.min_val, low), torch.full_like(self.max_val, high)

    def reset_min_max_vals(self) -> None:
        """Forgets what was observed."""
        super().reset_min_max_vals()
        with torch.inference_mode(False):
            self.histogram = torch.zeros_like(self.histogram)
