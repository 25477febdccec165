"""Convolutions and linear with packed weights, and what the kernels of each engine demand of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from fxquant.backends.native.convention import Convention, Made, Packing, UnitView
from fxquant.backends.native.kernels.conv_add import ConvAdd
from fxquant.backends.native.kernels.weighted import Conv, Linear
from fxquant.backends.native.onednn_convolutions import WRONG_HERE, onednn_is_right
from fxquant.fusion.rule import spatial_rank
from fxquant.ir.qdq import dequantize
from fxquant.numerics.conv_geometry import as_tuple, fold_pads, split_pads
from fxquant.ops import catalogue
from fxquant.plan.backend import Call

# onednn has no fast kernel for grouped convolutions with few channels a group; fbgemm has.
# Source: measurements on CPUs with and without VNNI, see ``benchmarks/kernels.py``.
_NARROW_GROUP = 16

# Share of results that float32 requantization rounds the other way. Source: DESIGN.md, "The reference's arithmetic".
RATE = 0.001


def refuse_weights(call: Call) -> str:
    """Kernels pack weight and bias once."""
    if not call.is_constant(call.bound["weight"]) or call.weight is None:
        return "its weight is computed from activations"
    bias = call.bound["bias"]
    if bias is not None and not call.is_constant(bias):
        return "its bias is computed from activations"
    return ""


def refuse_linear(call: Call) -> str:
    """Why a linear cannot be packed, "" when it can."""
    refused = refuse_weights(call)
    if refused or call.weight is None or len(call.weight.shape) == 2:
        return refused
    return "its weight is a vector"


def is_computed(argument: Any) -> bool:
    """Whether an argument, or a number in it, is computed when the model runs."""
    found: list[fx.Node] = []
    fx.node.map_arg(argument, lambda node: found.append(node))
    return bool(found)


def refuse_conv(call: Call) -> str:
    """Why a convolution cannot be packed, "" when it can."""
    refused = refuse_weights(call)
    if refused or call.weight is None:
        return refused
    if any(is_computed(call.bound[name]) for name in ("stride", "padding", "dilation", "groups")):
        return "its geometry depends on the input"
    if _growth(call) is None:
        return "its uneven padding does not line up with its dilation"
    return ""


def _growth(call: Call) -> tuple[tuple[int, int], ...] | None:
    """Zeros to put around the taps of a convolution, None where they do not line up with its dilation."""
    assert call.weight is not None
    return fold_pads(split_pads(call.bound, call.weight.shape), call.pad).grown_kernel(call.bound["dilation"])


def preferring(engine: str, onednn_is_right: bool = True) -> tuple[str, ...]:
    """The engines with kernels, ``engine`` first, then the faster ones; onednn only where it is right."""
    names = dict.fromkeys((engine, "onednn", "fbgemm", "qnnpack"))
    return tuple(name for name in names if onednn_is_right or name != "onednn")


def fastest_on_x86(groups: int, channels: int) -> str:
    """The engine of the faster convolution kernels on x86 CPUs, for so many input channels in a group."""
    return "fbgemm" if groups > 1 and 1 < channels < _NARROW_GROUP else "onednn"


def _conv_packings(call: Call, engine: str) -> tuple[Packing, ...]:
    assert call.weight is not None
    groups, channels = call.bound["groups"], call.weight.shape[1]
    first = fastest_on_x86(groups, channels) if engine == "x86" else engine
    depthwise, is_right = groups > 1 and channels == 1, is_right_in_onednn(call)
    note = "" if is_right or first != "onednn" else WRONG_HERE
    return tuple(Packing(name, conv_limit(name, depthwise), note=note) for name in preferring(first, is_right))


def is_right_in_onednn(call: Call) -> bool:
    """Whether onednn computes a convolution rightly on this CPU, the zeros put around its taps included."""
    assert call.weight is not None
    outputs, channels, *kernel = call.weight.shape
    zeros = _growth(call) or ((0, 0),) * len(kernel)
    grown = [size + sum(around) for size, around in zip(kernel, zeros, strict=True)]
    dilation = as_tuple(call.bound["dilation"], len(kernel))
    return onednn_is_right((outputs, channels, *grown), dilation, call.bound["groups"])


def conv_limit(engine: str, depthwise: bool) -> str:
    """What int16 accumulation demands on CPUs without VNNI (fbgemm's depthwise kernels: on all)."""
    if depthwise and engine != "qnnpack":
        return "none" if engine == "onednn" else "half"
    return pair_limit(engine)


def linear_packings(call: Call, engine: str) -> tuple[Packing, ...]:
    """The engines that linear may be packed for, the best first.

    On x86 that is fbgemm: onednn is as fast at the number of rows it saw first, and two to five times slower at others.
    Source: measurements, see ``benchmarks/kernels.py``.
    """
    return tuple(Packing(name, pair_limit(name)) for name in preferring("fbgemm" if engine == "x86" else engine))


def pair_limit(engine: str) -> str:
    """The order in which an engine's kernels add pairs of products in int16 on CPUs without VNNI."""
    return {"qnnpack": "none", "onednn": "channels"}.get(engine, "taps_then_channels")


def weighted_tensors(view: UnitView) -> dict[str, Tensor | None]:
    """The buffers of a weighted kernel."""
    return {key: view.tensor(key) for key in ("weight", "weight_scale", "weight_zero_point", "bias")}


def geometry_of(
    view: UnitView, weight: Tensor, pad: fx.Node | None
) -> tuple[dict[str, Any], tuple[tuple[int, int], ...]]:
    """Geometry of a convolution, and the zeros to put around its taps.

    Args:
        view: the unit.
        weight: [out, in/groups, *kernel].
        pad: the padding that the kernel does besides its own, None for none.
    """
    bound, rank = view.bound, spatial_rank(view.row.name)
    pads = split_pads(bound, weight.shape)
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
    return geometry, growth


def _conv(view: UnitView, relu: bool) -> Made:
    tensors, rank = weighted_tensors(view), spatial_rank(view.row.name)
    weight = tensors["weight"]
    assert weight is not None and view.unit.kernel is not None
    geometry, growth = geometry_of(view, weight, view.member("pad"))
    kernel = Conv(tensors, view.scale, view.zero_point, view.unit.kernel.engine, relu, rank, geometry, growth)
    return Made((view.input,), module=kernel)


def _conv_add(view: UnitView, relu: bool) -> Made:
    tensors, add = weighted_tensors(view), view.member("add")
    weight = tensors["weight"]
    assert weight is not None and add is not None
    geometry, growth = geometry_of(view, weight, view.member("pad"))
    (other,) = (node for node in add.all_input_nodes if node.target is dequantize)
    kernel = ConvAdd(tensors, view.scale, view.zero_point, view.input_qparams(), geometry, growth)
    return Made((view.input, view.lowered(other)), module=kernel)


def _linear(view: UnitView, relu: bool) -> Made:
    assert view.unit.kernel is not None
    kernel = Linear(weighted_tensors(view), view.scale, view.zero_point, view.unit.kernel.engine, relu)
    return Made((view.input,), module=kernel)


CONVENTIONS = {
    "conv": Convention(_conv, refuse_conv, clips_at_zero=True, packings=_conv_packings, rate=RATE),
    "conv_add": Convention(_conv_add, refuse_conv, rate=RATE),
    "linear": Convention(_linear, refuse_linear, clips_at_zero=True, packings=linear_packings, rate=RATE),
}
