"""The observer that keeps the smallest and largest value of all."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.observers.base import RangeObserver, check_finite


class MinMaxObserver(RangeObserver):
    """Keeps the minimum and maximum over everything observed; one range for the whole tensor.

    Good for weights, and for activations without outliers.

    Args: see ``RangeObserver``.
    """

    def _observe(self, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        check_finite(low, high)
        self.min_val = torch.minimum(self.min_val, low.to(self.min_val.device))
        self.max_val = torch.maximum(self.max_val, high.to(self.max_val.device))
