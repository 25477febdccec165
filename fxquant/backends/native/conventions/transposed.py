"""Transposed convolutions: on the engines' own kernels where these are right and fast, else as ordinary ones.

What torch's kernels of each engine are wrong for was found by comparing them with exact integer arithmetic over random
geometries; what they are slow for, by timing them. They are probed at convert all the same.
"""

from __future__ import annotations

from torch import fx

from fxquant.backends.native.convention import Convention, Made, Packing, UnitView
from fxquant.backends.native.conventions.weighted import (
    RATE,
    fastest_on_x86,
    is_computed,
    pair_limit,
    preferring,
    refuse_weights,
    weighted_tensors,
)
from fxquant.backends.native.engine import has_avx512
from fxquant.backends.native.kernels.transposed import ConvTranspose, SubpixelConv
from fxquant.backends.native.onednn_convolutions import onednn_is_right
from fxquant.numerics.conv_geometry import as_tuple
from fxquant.numerics.subpixel import TransposedGeometry
from fxquant.ops.opdef import Bound, Kernel
from fxquant.plan.backend import Call

TRANSPOSED = "conv_transpose"
_ONEDNN_REACH = 2
_ORDINARY = "computed as an ordinary convolution of its phases, with per-channel weights"
_PER_TENSOR = "this kernel takes one scale for the whole weight"


def _refuse(call: Call) -> str:
    refused = refuse_weights(call)
    if not refused and any(is_computed(call.bound[name]) for name in ("stride", "padding", "dilation", "groups")):
        return "its geometry depends on the input"
    return refused


def geometry_of(bound: Bound, weight_shape: tuple[int, ...]) -> TransposedGeometry:
    """The arguments of a call, one integer per dimension each.

    Args:
        bound: arguments by name. An output padding that is computed (from ``output_size``) counts as the largest that
            torch takes: one less than the stride or the dilation.
        weight_shape: [C_in, C_out/groups, *kernel].
    """
    kernel = tuple(weight_shape[2:])
    stride, padding, dilation = (as_tuple(bound[name], len(kernel)) for name in ("stride", "padding", "dilation"))
    largest = tuple(max(pair) - 1 for pair in zip(stride, dilation, strict=True))
    extra = bound["output_padding"]
    extra = largest if is_computed(extra) else as_tuple(extra, len(kernel))
    return TransposedGeometry(kernel, stride, padding, extra, dilation, bound["groups"])


def _packings(call: Call, engine: str) -> tuple[Packing, ...]:
    """The plan's engine where its own kernel is known to be right, and faster than an ordinary convolution."""
    assert call.weight is not None
    if is_computed(call.bound["output_padding"]):
        return ()
    geometry = geometry_of(call.bound, call.weight.shape)
    engines = ("onednn", "fbgemm") if engine == "x86" else (engine,)
    usable = (name for name in engines if _is_right(name, geometry, call.weight.shape) and _is_fast(name, geometry))
    return tuple(
        Packing(name, pair_limit(name), probed=True)
        if name == "qnnpack"
        else Packing(name, pair_limit(name), weight_granularity="tensor", probed=True, note=_PER_TENSOR)
        for name in usable
    )


def _is_right(engine: str, geometry: TransposedGeometry, weight_shape: tuple[int, ...]) -> bool:
    """Whether an engine's kernel computes a transposed convolution of this geometry."""
    rank = len(geometry.kernel)
    if engine == "onednn":  # packs the weight as if it were square; has no output padding, so the kernel grows by zeros
        lined_up = (extra % step == 0 for extra, step in zip(geometry.output_padding, geometry.dilation, strict=True))
        square = weight_shape[0] == weight_shape[1] * geometry.groups
        return square and all(lined_up) and not has_avx512()
    if engine == "fbgemm":  # kernels two high go through a path that is wrong for strides or batches above 1
        return rank != 2 or geometry.kernel[0] != 2
    return rank < 3  # qnnpack's 3d results have nothing to do with the input


def _is_fast(engine: str, geometry: TransposedGeometry) -> bool:
    """Whether an engine's kernel is as fast as the ordinary convolution: most multiply the zeros of a stride.

    onednn's is, on CPUs without VNNI, a plain loop a thousand times slower for strides above 2, dilated strides, and
    kernels that reach more than 2 elements past the padding.
    """
    g, unstrided = geometry, all(step == 1 for step in geometry.stride)
    if engine != "onednn":
        return unstrided and g.groups == 1
    steps = all(s == 1 or (s == 2 and d == 1) for s, d in zip(g.stride, g.dilation, strict=True))
    each = zip(g.kernel, g.padding, g.output_padding, g.dilation, strict=True)
    near = all(d * (k - 1) + extra - p <= _ONEDNN_REACH for k, p, extra, d in each)
    return steps and near and (unstrided or g.groups == 1)


def _subpixel_packings(call: Call, engine: str) -> tuple[Packing, ...]:
    assert call.weight is not None
    geometry = geometry_of(call.bound, call.weight.shape)
    channels, groups = call.weight.shape[0] // geometry.groups, geometry.groups
    first = _fastest_on_x86(geometry, channels) if engine == "x86" else engine
    ordinary = groups == 1 and onednn_is_right((1, channels, *geometry.kernel), geometry.dilation, groups)
    names = preferring(first, ordinary or not has_avx512())
    return tuple(Packing(name, _subpixel_limit(name, groups, channels), note=_ORDINARY) for name in names)


def _fastest_on_x86(geometry: TransposedGeometry, channels: int) -> str:
    """The engine for so many input channels in a group.

    qnnpack is the only one with a fast kernel for one channel in and several out; fbgemm would halve odd ones' weights.
    """
    if geometry.groups > 1 and channels == 1 and any(step > 1 for step in geometry.stride):
        return "qnnpack"
    return "onednn" if channels % 2 else fastest_on_x86(geometry.groups, channels)


def _subpixel_limit(engine: str, groups: int, channels: int) -> str:
    """Pairs of channels; fbgemm's straddle the taps of the ordinary convolution when there is an odd number."""
    if engine == "fbgemm":
        return "channels" if channels % 2 == 0 else "half"
    return "none" if groups > 1 and channels == 1 else pair_limit(engine)


def _conv_transpose(view: UnitView, relu: bool) -> Made:
    return _made(view, relu, ConvTranspose)


def _subpixel(view: UnitView, relu: bool) -> Made:
    return _made(view, relu, SubpixelConv)


def _made(view: UnitView, relu: bool, kind: type[ConvTranspose] | type[SubpixelConv]) -> Made:
    tensors = weighted_tensors(view)
    weight = tensors["weight"]
    assert weight is not None and view.unit.kernel is not None
    geometry, extra = geometry_of(view.bound, tuple(weight.shape)), view.bound["output_padding"]
    kernel = kind(tensors, view.scale, view.zero_point, view.unit.kernel.engine, relu, geometry)
    computed = (fx.node.map_arg(extra, view.lowered),) if is_computed(extra) else ()
    return Made((view.input, *computed), module=kernel)


def ordinary(kernel: Kernel) -> Kernel:
    """The kernel that does as an ordinary convolution what a transposed one does."""
    return Kernel("subpixel", kernel.function.replace("conv_transpose", "conv"))


CONVENTIONS = {
    TRANSPOSED: Convention(_conv_transpose, _refuse, packings=_packings, rate=RATE),
    "subpixel": Convention(_subpixel, _refuse, clips_at_zero=True, packings=_subpixel_packings, rate=RATE),
}
