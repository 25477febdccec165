"""Turn what observers saw into a scale and zero point per range class.

Before: ``int8_range_observers.relu`` holds a histogram. After: ``relu: scale 0.0235, zero_point 0``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxquant.errors import CalibrationError, FxquantError
from fxquant.ir.containers import RANGE_OBSERVERS
from fxquant.ir.quant_plan import QuantPlan, RangeClass
from fxquant.ir.stages import ObservedModel
from fxquant.numerics.qparams import FLOAT32_EPS, NO_RANGE
from fxquant.observers.histogram import HistogramObserver, histogram_qparams

_JUST_ABOVE = 1.001


@dataclass(frozen=True)
class QParams:
    """Per-tensor parameters.

    Attributes:
        scale: float32 [], zero_point: int64 [].
    """

    scale: Tensor
    zero_point: Tensor


def compute_qparams(
    observed: ObservedModel, plan: QuantPlan, given: Mapping[str, QParams] | None = None
) -> dict[str, QParams]:
    """Parameters of every range class, by its name; of those that come from outside, only where they are given.

    Args:
        observed: calibrated.
        plan: its plan.
        given: parameters from outside, by the value they are of.

    Raises:
        CalibrationError: observers that saw no data, all of them named.
    """
    observers = {
        item.name: observed.get_submodule(f"{RANGE_OBSERVERS}.{item.name}.observer")
        for item in plan.classes
        if item.is_observed
    }
    silent = [name for name, observer in observers.items() if not has_seen_data(observer)]
    if silent:
        raise CalibrationError(
            f"{len(silent)} observers saw no data: {', '.join(silent[:10])}",
            remedy="run calibration batches through the prepared model before converting it",
        )
    # Subclasses may compute their ranges in another way, and are asked one by one.
    histograms = {name: observer for name, observer in observers.items() if type(observer) is HistogramObserver}
    searched = dict(zip(histograms, histogram_qparams(list(histograms.values())), strict=True))
    found: dict[str, QParams] = {}
    for item in plan.classes:
        if item.fixed is not None:
            found[item.name] = _qparams(item.fixed.scale, item.fixed.zero_point)
        elif item.given_by:
            if given is not None and item.given_by in given:
                found[item.name] = given[item.given_by]
        else:
            found[item.name] = _observed(item, searched, observers[item.name])
    return found


def _observed(item: RangeClass, searched: Mapping[str, tuple[Tensor, Tensor]], observer: Any) -> QParams:
    """Parameters of a class that was observed; what a search found is widened by the class's headroom."""
    if item.name not in searched:
        return _qparams(*_calculate(item.name, observer), _smallest(item, observer))
    scale, zero_point = searched[item.name]
    return _qparams(scale * item.headroom, zero_point, _smallest(item, observer))


def _smallest(item: RangeClass, observer: Any) -> float:
    """Scales up to this mean that nothing but zeros or noise was seen."""
    if float(getattr(observer, "eps", FLOAT32_EPS)) >= FLOAT32_EPS:
        return NO_RANGE
    return max(item.noise / (item.spec.quant_max - item.spec.quant_min), _JUST_ABOVE * float(observer.eps))


def observed_qparams(name: str, observer: Any) -> QParams:
    """Parameters of one observer of a model without a graph.

    Args:
        name: of what it observes, for messages.
        observer: calibrated.

    Raises:
        CalibrationError: it saw no data, or fails.
    """
    if not has_seen_data(observer):
        raise CalibrationError(
            f"the observer of {name} saw no data",
            module_path=name,
            remedy="run calibration batches through the prepared model, or set its qconfig to None",
        )
    return _qparams(*_calculate(name, observer))


def _calculate(name: str, observer: Any) -> tuple[Any, Any]:
    """Scale and zero point of an observer of any kind."""
    try:
        scale, zero_point = observer.calculate_qparams()
    except FxquantError as error:
        raise CalibrationError(f"{name}: {error.message}", op=name, remedy=error.remedy) from error
    except Exception as error:  # an observer that is not ours may raise anything
        raise CalibrationError(
            f"{name}: {type(observer).__name__}.calculate_qparams failed: {error}",
            op=name,
            remedy="use an observer that measures ranges, such as MinMaxObserver",
        ) from error
    return scale, zero_point


def range_notes(observed: ObservedModel, plan: QuantPlan) -> dict[str, str]:
    """Where each class's range came from: ``HistogramObserver over 16 batches``, or ``fixed``."""
    notes = {}
    for item in plan.classes:
        if item.fixed is not None:
            notes[item.name] = f"fixed by {item.configured_by}"
            continue
        if item.given_by:
            notes[item.name] = f"outside, as {item.given_by}"
            continue
        attached = observed.get_submodule(f"{RANGE_OBSERVERS}.{item.name}")
        batches = max(attached.batches.values(), default=0)  # type: ignore[operator]
        kind = type(attached.observer).__name__
        notes[item.name] = f"{kind} over {batches} batches" if batches else f"{kind}, statistics loaded"
    return notes


def _qparams(scale: Any, zero_point: Any, smallest: float = NO_RANGE) -> QParams:
    value = torch.as_tensor(scale, dtype=torch.float32).detach().cpu().reshape(()).clone()
    return QParams(
        torch.ones(()) if float(value) <= smallest else value,
        torch.as_tensor(zero_point, dtype=torch.int64).detach().cpu().reshape(()).clone(),
    )


def has_seen_data(observer: Any) -> bool:
    """Whether an observer, fxquant's or torch.ao's, has statistics to go by."""
    seen = getattr(observer, "has_seen_data", None)
    if isinstance(seen, bool):
        return seen
    smallest = getattr(observer, "min_val", None)
    return not isinstance(smallest, Tensor) or (smallest.numel() > 0 and bool(torch.isfinite(smallest).all()))
