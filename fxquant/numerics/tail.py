"""How far unseen data will reach beyond what calibration saw.

A few dozen calibration samples do not hold the largest value that will ever come. How much further the next samples
reach shows in how the peaks of those seen differ: activations whose peaks are all alike stay there, those with a
heavy tail do not.
"""

from __future__ import annotations

import torch
from torch import Tensor

KEPT_PEAKS = 32
"""Largest peaks that are kept per end of a range: more do not make the estimate better than its assumption."""

_LEAST_SAMPLES = 8
_LARGEST_REACH = 2.0  # one bit


def keep_peaks(peaks: Tensor, new: Tensor) -> Tensor:
    """Merge the peaks of new samples into the largest ones seen so far.

    Args:
        peaks: [KEPT_PEAKS] float32, descending, zeros where fewer were seen.
        new: [N] float32, one per sample; only positive ones count.

    Returns:
        [KEPT_PEAKS], descending.
    """
    return torch.cat((peaks, new.clamp(min=0))).topk(KEPT_PEAKS).values


def reach(peaks: Tensor, samples: int, horizon: float) -> float:
    """Factor by which ``horizon`` times as many samples are expected to exceed the largest one seen.

    The tail index is estimated from the largest quarter of the peaks; a quantile of a Pareto tail with index ξ that is
    ``horizon`` times as rare lies ``horizon ** ξ`` times as far out.

    Args:
        peaks: [KEPT_PEAKS] float32, descending.
        samples: how many samples they are the largest of.
        horizon: at least 1.

    Returns:
        1 to 2; 1 when fewer than 8 samples were seen.

    Source: B. M. Hill, "A simple general approach to inference about the tail of a distribution", 1975 (tail index);
    I. Weissman, "Estimation of parameters and large quantiles based on the k largest observations", 1978.
    """
    largest = min(max(2, samples // 4), KEPT_PEAKS - 1)
    if samples < _LEAST_SAMPLES or float(peaks[largest]) <= 0:
        return 1.0
    index = (peaks[:largest] / peaks[largest]).log().mean()
    return min(float(horizon**index), _LARGEST_REACH)
