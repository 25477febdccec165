"""The observer that keeps a histogram and gives up outliers where that lowers the error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fxquant.errors import ConfigError
from fxquant.numerics import add_to_histogram, choose_qparams, search_ranges
from fxquant.observers.base import SYMMETRIC_SCHEMES, RangeObserver, check_finite


class HistogramObserver(RangeObserver):
    """Keeps a histogram of everything observed; its range has the least expected squared quantization error.

    Args:
        bins: number of bins over the range seen so far, at least 1.
        dtype: see ``RangeObserver``, as all that follow.
        qscheme: per tensor, affine or symmetric.
        *args: ``reduce_range``, ``quant_min``, ``quant_max``.
        **kwargs: the same by name, ``eps`` and ``factory_kwargs``.

    Source: see ``fxquant.numerics.search_ranges``.
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
        low, high = (end[0].to(self.min_val.device) for end in _search([self]))
        return low, high

    def reset_min_max_vals(self) -> None:
        """Forgets what was observed."""
        super().reset_min_max_vals()
        with torch.inference_mode(False):
            self.histogram = torch.zeros_like(self.histogram)


def histogram_qparams(observers: Sequence[HistogramObserver]) -> list[tuple[Tensor, Tensor]]:
    """What ``calculate_qparams`` of each observer gives, on the CPU, with alike observers searched in one go.

    Args:
        observers: that have seen data.

    Returns:
        ``(scale float32 [1], zero_point int64 [1])`` of each observer.
    """
    alike: dict[tuple[Any, ...], list[int]] = {}
    for index, observer in enumerate(observers):
        key = (observer.bins, observer.quant_min, observer.quant_max, observer.qscheme, float(observer.eps))
        alike.setdefault(key, []).append(index)
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for (_, quant_min, quant_max, qscheme, eps), indices in alike.items():
        low, high = _search([observers[index] for index in indices])
        symmetric = qscheme in SYMMETRIC_SCHEMES
        qparams = choose_qparams(low, high, quant_min, quant_max, symmetric=symmetric, eps=eps)
        found.update(zip(indices, zip(*(torch.split(values, 1) for values in qparams), strict=True), strict=True))
    return [found[index] for index in range(len(observers))]


def _search(observers: Sequence[HistogramObserver]) -> tuple[Tensor, Tensor]:
    """Ends of the best ranges, float32 [N]; the observers are alike in all but their data."""
    first = observers[0]
    counts = torch.stack([observer.histogram.cpu() for observer in observers])
    lo = torch.tensor([float(observer.min_val) for observer in observers], dtype=torch.float64)
    hi = torch.tensor([float(observer.max_val) for observer in observers], dtype=torch.float64)
    levels, symmetric = first.quant_max - first.quant_min + 1, first.qscheme in SYMMETRIC_SCHEMES
    low, high = search_ranges(counts, lo, hi, levels, symmetric=symmetric)
    return low.to(torch.float32), high.to(torch.float32)
