"""Convolutions and linear with packed weights."""

from __future__ import annotations

from torch import Tensor, fx

from fxquant.backends.native.convention import Convention, Made, UnitView
from fxquant.backends.native.kernels.weighted import Conv, Linear
from fxquant.numerics.conv_geometry import as_tuple, fold_pads, split_pads
from fxquant.ops import catalogue
from fxquant.plan.backend import Call

# onednn has no fast kernel for grouped convolutions with few channels a group; fbgemm has.
# Source: measurements on CPUs with and without VNNI, see ``benchmarks/kernels.py``.
_NARROW_GROUP = 16

# Share of results that float32 requantization rounds the other way. Source: DESIGN.md, "The reference's arithmetic".
_RATE = 0.001


def refuse_weights(call: Call) -> str:
    """Kernels pack weight and bias once."""
    if not call.is_constant(call.bound["weight"]) or call.weight is None:
        return "its weight is computed from activations"
    bias = call.bound["bias"]
    if bias is not None and not call.is_constant(bias):
        return "its bias is computed from activations"
    return ""


def _refuse_conv(call: Call) -> str:
    refused = refuse_weights(call)
    if refused or call.weight is None:
        return refused
    geometry = ("stride", "padding", "dilation", "groups")
    if any(isinstance(call.bound[name], fx.Node) for name in geometry):
        return "its geometry depends on the input"
    pads = fold_pads(split_pads(call.bound, call.weight.shape), call.pad)
    if pads.grown_kernel(call.bound["dilation"]) is None:
        return "its uneven padding does not line up with its dilation"
    return ""


def _conv_engine(call: Call, engine: str) -> tuple[str, str]:
    """The engine, and what int16 accumulation demands on CPUs without VNNI (fbgemm's depthwise kernels: on all)."""
    assert call.weight is not None
    grouped, channels = call.bound["groups"] > 1, call.weight.shape[1]
    if engine == "x86":
        engine = "fbgemm" if grouped and 1 < channels < _NARROW_GROUP else "onednn"
    depthwise = grouped and channels == 1
    if engine == "onednn" and depthwise:
        return engine, "none"
    if engine == "fbgemm" and depthwise:
        return engine, "half"
    return engine, _pair_limit(engine)


def _linear_engine(call: Call, engine: str) -> tuple[str, str]:
    engine = "onednn" if engine == "x86" else engine
    return engine, _pair_limit(engine)


def _pair_limit(engine: str) -> str:
    return {"qnnpack": "none", "onednn": "channels"}.get(engine, "taps_then_channels")


def weighted_tensors(view: UnitView) -> dict[str, Tensor | None]:
    """The buffers of a weighted kernel."""
    return {key: view.tensor(key) for key in ("weight", "weight_scale", "weight_zero_point", "bias")}


def _conv(view: UnitView, relu: bool) -> Made:
    bound, tensors = view.bound, weighted_tensors(view)
    weight, rank = tensors["weight"], int(view.row.name[4])
    assert weight is not None and view.unit.kernel is not None
    pads, pad = split_pads(bound, weight.shape), view.member("pad")
    if pad is not None:
        pads = fold_pads(pads, catalogue.arguments(pad, catalogue.row_of(pad))["pad"])
    growth = pads.grown_kernel(bound["dilation"])
    assert growth is not None
    geometry = {
        "stride": as_tuple(bound["stride"], rank),
        "padding": pads.symmetric,
        "dilation": as_tuple(bound["dilation"], rank),
        "groups": bound["groups"],
    }
    kernel = Conv(tensors, view.scale, view.zero_point, view.unit.kernel.engine, relu, rank, geometry, growth)
    return Made((view.input,), module=kernel)


def _linear(view: UnitView, relu: bool) -> Made:
    assert view.unit.kernel is not None
    kernel = Linear(weighted_tensors(view), view.scale, view.zero_point, view.unit.kernel.engine, relu)
    return Made((view.input,), module=kernel)


CONVENTIONS = {
    "conv": Convention(_conv, _refuse_conv, clips_at_zero=True, engine=_conv_engine, rate=_RATE),
    "linear": Convention(_linear, refuse_weights, clips_at_zero=True, engine=_linear_engine, rate=_RATE),
}
