"""Turn what observers saw into a scale and zero point per range class.

Before: ``int8_range_observers.relu`` holds a histogram. After: ``relu: scale 0.0235, zero_point 0``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxquant.errors import CalibrationError, FxquantError
from fxquant.ir.containers import RANGE_OBSERVERS
from fxquant.ir.quant_plan import QuantPlan, RangeClass
from fxquant.ir.stages import ObservedModel


@dataclass(frozen=True)
class QParams:
    """Per-tensor parameters.

    Attributes:
        scale: float32 [], zero_point: int64 [].
    """

    scale: Tensor
    zero_point: Tensor


def compute_qparams(observed: ObservedModel, plan: QuantPlan) -> dict[str, QParams]:
    """Parameters of every range class, by its name.

    Raises:
        CalibrationError: observers that saw no data, all of them named.
    """
    found: dict[str, QParams] = {}
    silent: list[RangeClass] = []
    for item in plan.classes:
        if item.fixed is not None:
            found[item.name] = _qparams(item.fixed.scale, item.fixed.zero_point)
            continue
        observer = observed.get_submodule(f"{RANGE_OBSERVERS}.{item.name}.observer")
        if not _has_seen_data(observer):
            silent.append(item)
            continue
        try:
            scale, zero_point = observer.calculate_qparams()  # type: ignore[operator]
        except FxquantError as error:
            raise CalibrationError(f"{item.name}: {error.message}", op=item.name, remedy=error.remedy) from error
        found[item.name] = _qparams(scale, zero_point)
    if silent:
        raise CalibrationError(
            f"{len(silent)} observers saw no data: {', '.join(item.name for item in silent[:10])}",
            remedy="run calibration batches through the prepared model before converting it",
        )
    return found


def range_notes(observed: ObservedModel, plan: QuantPlan) -> dict[str, str]:
    """Where each class's range came from: ``HistogramObserver over 16 batches``, or ``fixed``."""
    notes = {}
    for item in plan.classes:
        if item.fixed is not None:
            notes[item.name] = f"fixed by {item.configured_by}"
            continue
        attached = observed.get_submodule(f"{RANGE_OBSERVERS}.{item.name}")
        batches = max(attached.batches.values(), default=0)  # type: ignore[operator]
        notes[item.name] = f"{type(attached.observer).__name__} over {batches} batches"
    return notes


# The smallest scale observers give, 2**-23: they saw nothing but zeros. Any scale stores zeros; a sane one keeps
# rounding noise of the float computation from looking like signal.
_NO_RANGE = 1.2e-7


def _qparams(scale: Any, zero_point: Any) -> QParams:
    value = torch.as_tensor(scale, dtype=torch.float32).detach().cpu().reshape(()).clone()
    return QParams(
        torch.ones(()) if float(value) <= _NO_RANGE else value,
        torch.as_tensor(zero_point, dtype=torch.int64).detach().cpu().reshape(()).clone(),
    )


def _has_seen_data(observer: Any) -> bool:
    seen = getattr(observer, "has_seen_data", None)
    if isinstance(seen, bool):
        return seen
    smallest = getattr(observer, "min_val", None)
    return not isinstance(smallest, Tensor) or (smallest.numel() > 0 and bool(torch.isfinite(smallest).all()))
