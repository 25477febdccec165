"""The observer that keeps a histogram and gives up outliers where that lowers the error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fxquant.errors import ConfigError
from fxquant.numerics import add_to_histogram, choose_qparams, search_ranges
from fxquant.numerics.tail import KEPT_PEAKS, keep_peaks, reach
from fxquant.observers.base import SYMMETRIC_SCHEMES, RangeObserver, check_finite


class HistogramObserver(RangeObserver):
    """Keeps a histogram of everything observed; its range has the least expected squared quantization error.

    Args:
        bins: number of bins over the range seen so far, at least 1.
        dtype: see ``RangeObserver``, as all that follow.
        qscheme: per tensor, affine or symmetric.
        horizon: how many times as many samples as observed the range is for, at least 1. Each end is moved out to where
            the peaks of the samples (along the first dimension) let so many be expected; 1 takes the data as it is.
        *args: ``reduce_range``, ``quant_min``, ``quant_max``.
        **kwargs: the same by name, ``eps`` and ``factory_kwargs``.

    Source: see ``fxquant.numerics.search_ranges`` and ``fxquant.numerics.tail``.
    """

    can_be_dynamic: ClassVar[bool] = False

    histogram: Tensor
    peaks: Tensor  # [2, KEPT_PEAKS]: largest distances below and above zero, one per sample
    samples: Tensor  # int64 []: how many samples they are the largest of

    def __init__(
        self,
        bins: int = 2048,
        dtype: torch.dtype = torch.uint8,
        qscheme: torch.qscheme = torch.per_tensor_affine,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        horizon = float(kwargs.pop("horizon", 1.0))
        super().__init__(dtype, qscheme, *args, **kwargs)
        if bins < 1:
            raise ConfigError(f"a histogram of {bins} bins", remedy="use at least 1 bin; 2048 is the default")
        if horizon < 1:
            raise ConfigError(f"a horizon of {horizon} times the data", remedy="use 1, or more")
        self.bins = bins
        self.horizon = horizon
        with torch.inference_mode(False):
            zeros = torch.zeros(bins, dtype=torch.float64, device=self.min_val.device)
            self.register_buffer("histogram", zeros)
            if horizon > 1:
                self.register_buffer("peaks", torch.zeros(2, KEPT_PEAKS, device=self.min_val.device))
                self.register_buffer("samples", torch.zeros((), dtype=torch.int64, device=self.min_val.device))

    def _observe(self, x: Tensor) -> None:
        peaks = self._peaks(x)
        low, high = torch.aminmax(x) if peaks is None else (-peaks[0].max(), peaks[1].max())
        check_finite(low, high)
        if peaks is not None:
            merged = [keep_peaks(*ends) for ends in zip(self.peaks, peaks.to(self.peaks.device), strict=True)]
            self.peaks, self.samples = torch.stack(merged), self.samples + peaks.shape[1]
        self.histogram, new_low, new_high = add_to_histogram(
            self.histogram, float(self.min_val), float(self.max_val), float(low), float(high), x
        )
        self.min_val = torch.full_like(self.min_val, new_low)
        self.max_val = torch.full_like(self.max_val, new_high)

    def _peaks(self, x: Tensor) -> Tensor | None:
        """How far each sample reaches below and above zero: [2, N]; None when it is not asked for."""
        if self.horizon == 1 or x.dim() < 2:
            return None
        others = tuple(range(1, x.dim()))
        return torch.stack((-x.amin(others), x.amax(others)))

    def _reach(self) -> list[float]:
        """Factors that move the low and the high end of the range to the horizon."""
        if self.horizon == 1:
            return [1.0, 1.0]
        return [reach(peaks, int(self.samples), self.horizon) for peaks in self.peaks.cpu()]

    def _range(self) -> tuple[Tensor, Tensor]:
        low, high = (end[0].to(self.min_val.device) for end in _search([self]))
        return low, high

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Takes on statistics without peaks too, such as torch.ao's: nothing is expected beyond those."""
        if self.horizon > 1 and prefix + "histogram" in state_dict:
            for name, buffer in (("peaks", self.peaks), ("samples", self.samples)):
                state_dict.setdefault(prefix + name, torch.zeros_like(buffer))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def reset_min_max_vals(self) -> None:
        """Forgets what was observed."""
        super().reset_min_max_vals()
        with torch.inference_mode(False):
            self.histogram = torch.zeros_like(self.histogram)
            if self.horizon > 1:
                self.peaks = torch.zeros_like(self.peaks)
                self.samples = torch.zeros_like(self.samples)


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
    reaches = torch.tensor([observer._reach() for observer in observers], dtype=torch.float64)
    low, high = low.where(low > 0, low * reaches[:, 0]), high.where(high < 0, high * reaches[:, 1])
    return low.to(torch.float32), high.to(torch.float32)
