"""Quantization-aware training that begins with the ranges of a calibrated model."""

from __future__ import annotations

from fxquant.errors import ConfigError
from fxquant.ir.containers import RANGE_OBSERVERS
from fxquant.ir.stages import FakeQuantizedModel, ObservedModel
from fxquant.observers.attached_fake_quantize import AttachedFakeQuantize
from fxquant.passes.compute_qparams import compute_qparams


def start_ranges(model: FakeQuantizedModel, calibrated: ObservedModel) -> None:
    """Set the ranges of ``model``, in place, to those of the same values in a calibrated model.

    Args:
        model: prepared for training.
        calibrated: the same network prepared with ``prepare_fx`` and calibrated, or trained.

    Raises:
        CalibrationError: ``calibrated`` saw no data. ConfigError: they have no range in common.
    """
    found = compute_qparams(calibrated, calibrated.plan)
    known = {
        member: found[item.name] for item in calibrated.plan.classes for member in item.members if item.name in found
    }
    started = 0
    for item in model.plan.classes:
        if item.is_observed and item.name in known:
            attached = model.get_submodule(f"{RANGE_OBSERVERS}.{item.name}")
            assert isinstance(attached, AttachedFakeQuantize)
            attached.start_at(known[item.name].scale, known[item.name].zero_point)
            started += 1
    if not started:
        raise ConfigError(
            "start_from has no range that this model has",
            remedy="prepare the same network with prepare_fx, calibrate it, and pass it as start_from",
        )
