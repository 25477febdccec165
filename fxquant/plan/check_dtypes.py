"""Whether a qconfig meets what a backend config demands of dtypes, integers and scales."""

from __future__ import annotations

from typing import Any

import torch

from fxquant.fusion.rule import WEIGHTED
from fxquant.ops.opdef import Fixed, OpDef
from fxquant.qconfig.dtype_config import DTypeConfig, DTypeWithConstraints

_PLAIN = {"quint8": "uint8", "qint8": "int8", "qint32": "int32", "quint4x2": "uint8", "quint2x4": "uint8"}


def unmet_demand(config: DTypeConfig, qconfig: Any, row: OpDef) -> str:
    """What ``config`` demands and ``qconfig`` does not give, "" when it gives all.

    Args:
        config: one combination of dtypes that a backend takes.
        qconfig: the operator's; its observers state dtype, integers and smallest scale.
        row: the operator; its weight counts where integers are made of it, its fixed range in place of an observer's.
    """
    if config.is_dynamic:
        return "ranges taken at run time"
    activation = qconfig.activation()
    found = _unmet("inputs", config.input_dtype_with_constraints, activation, row)
    found = found or _unmet("outputs", config.output_dtype_with_constraints, activation, row)
    if row.name not in WEIGHTED or found:
        return found
    if config.bias_dtype not in (None, torch.float32):
        return f"biases of {_short(config.bias_dtype)}, and they are float32 here"
    return _unmet("weights", config.weight_dtype_with_constraints, qconfig.weight(), None)


def unmet_by_mode(config: DTypeConfig, qconfig: Any, mode: str) -> str:
    """The same for an operator with floats on both sides.

    Args:
        config: one combination of dtypes that a backend takes.
        qconfig: the operator's.
        mode: as in ``Unit``.
    """
    at_run_time = mode in ("dynamic", "float16")
    if bool(config.is_dynamic) != at_run_time:
        return "ranges taken at run time" if config.is_dynamic else "ranges known before"
    output = config.output_dtype_with_constraints.dtype
    if output is not None and not output.is_floating_point:
        return f"outputs of {_short(output)}, and they are float32 here"
    found = _unmet("inputs", config.input_dtype_with_constraints, qconfig.activation(), None)
    return found or _unmet("weights", config.weight_dtype_with_constraints, qconfig.weight(), None)


def _unmet(slot: str, demand: DTypeWithConstraints, observer: Any, row: OpDef | None) -> str:
    if demand.dtype is None:
        return ""
    dtype = _short(getattr(observer, "dtype", None))
    if dtype != _short(demand.dtype):
        return f"{slot} of {_short(demand.dtype)}, and they are {dtype} here"
    output = row.output if row is not None else None
    if demand.scale_exact_match is not None or demand.zero_point_exact_match is not None:
        return _unmet_exactly(slot, demand, output if isinstance(output, Fixed) else observer)
    if isinstance(output, Fixed) and slot == "outputs":
        return ""
    return _unmet_limits(slot, demand, observer)


def _unmet_exactly(slot: str, demand: DTypeWithConstraints, known: Any) -> str:
    """``known`` states a scale and zero point: the row's fixed range, or an observer of fixed parameters."""
    asked = (demand.scale_exact_match, demand.zero_point_exact_match)
    given = tuple(getattr(known, name, None) for name in ("scale", "zero_point"))
    have = [None if value is None else float(value) for value in given]
    if all(want is None or want == value for want, value in zip(asked, have, strict=True)):
        return ""
    shown = "an observed range" if None in have else f"scale {have[0]:.6g}, zero point {have[1]:.0f}"
    return f"{slot} of exactly scale {asked[0]}, zero point {asked[1]}, and they have {shown} here"


def _unmet_limits(slot: str, demand: DTypeWithConstraints, observer: Any) -> str:
    low, high, smallest = (getattr(observer, name, None) for name in ("quant_min", "quant_max", "eps"))
    if demand.quant_min_lower_bound is not None and (low is None or low < demand.quant_min_lower_bound):
        return f"integers of {slot} from {demand.quant_min_lower_bound}, and they start at {low} here"
    if demand.quant_max_upper_bound is not None and (high is None or high > demand.quant_max_upper_bound):
        return f"integers of {slot} up to {demand.quant_max_upper_bound}, and they go up to {high} here"
    bound = demand.scale_min_lower_bound
    if bound is not None and (smallest is None or float(smallest) < bound):
        has = "no" if smallest is None else f"{float(smallest):.3g}"
        return f"scales of {slot} of at least {bound:.3g} (the observer's eps), and there is {has} lower bound here"
    return ""


def _short(dtype: Any) -> str:
    """The dtype's name; a quantized dtype's is that of its integers."""
    name = str(dtype).removeprefix("torch.")
    return _PLAIN.get(name, name)
