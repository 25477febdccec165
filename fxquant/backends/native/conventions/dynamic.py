"""Kernels with floats on both sides: the input is quantized when it arrives."""

from __future__ import annotations

from fxquant.backends.native.convention import Convention, Made, Packing, UnitView
from fxquant.backends.native.conventions.weighted import (
    conv_limit,
    geometry_of,
    is_right_in_onednn,
    linear_packings,
    refuse_conv,
    refuse_linear,
    weighted_tensors,
)
from fxquant.backends.native.kernels.conv_dynamic import ConvDynamic
from fxquant.backends.native.kernels.dynamic import LinearDynamic, LinearFloat16
from fxquant.backends.native.onednn_convolutions import WRONG_HERE
from fxquant.plan.backend import Call


def _linear(view: UnitView, relu: bool) -> Made:
    assert view.unit.kernel is not None
    return Made((view.input,), module=LinearDynamic(weighted_tensors(view), view.unit.kernel.engine, relu))


def _linear_float16(view: UnitView, relu: bool) -> Made:
    assert view.unit.kernel is not None
    tensors = {key: view.tensor(key) for key in ("weight", "bias")}
    return Made((view.input,), module=LinearFloat16(tensors, view.unit.kernel.engine, relu))


def _conv(view: UnitView, relu: bool) -> Made:
    tensors = weighted_tensors(view)
    assert tensors["weight"] is not None
    geometry, growth = geometry_of(view, tensors["weight"], None)  # a pad before it is done in float
    return Made((view.lowered(view.bound["input"]),), module=ConvDynamic(tensors, relu, geometry, growth))


def _refuse_conv(call: Call) -> str:
    """Why a convolution cannot be packed for onednn on this CPU, "" when it can."""
    return refuse_conv(call) or ("" if is_right_in_onednn(call) else WRONG_HERE)


def _conv_packings(call: Call, engine: str) -> tuple[Packing, ...]:
    """Only onednn returns the sums in float."""
    assert call.weight is not None
    depthwise = call.bound["groups"] > 1 and call.weight.shape[1] == 1
    return (Packing("onednn", conv_limit("onednn", depthwise)),)


def float16_packings(call: Call, engine: str) -> tuple[Packing, ...]:
    """Only fbgemm packs float16 weights."""
    return (Packing("fbgemm"),)


CONVENTIONS = {
    "linear_float16": Convention(_linear_float16, refuse_linear, clips_at_zero=True, packings=float16_packings),
    "conv_dynamic": Convention(_conv, _refuse_conv, clips_at_zero=True, packings=_conv_packings),
    "linear_dynamic": Convention(_linear, refuse_linear, clips_at_zero=True, packings=linear_packings),
}
