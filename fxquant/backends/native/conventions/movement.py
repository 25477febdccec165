"""Views, moves and selections: the operator itself on quantized tensors, or on their integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxquant.backends.native.convention import Convention, Made, UnitView, always
from fxquant.backends.native.conventions.filling import integer_of, refuse_fill
from fxquant.backends.native.conventions.joining import JOIN_RATE
from fxquant.backends.native.kernels import movement
from fxquant.backends.native.kernels.averaging import InFloat
from fxquant.backends.native.kernels.joining import Joined
from fxquant.ir.meta import info
from fxquant.numerics.conv_geometry import as_tuple
from fxquant.ops.opdef import Kernel
from fxquant.plan.backend import Call

# Source: measured on random integers against float64, ties apart: none for the linear modes, 2e-6 for bicubic.
_RESIZE_RATE = 1e-5


def same_function(view: UnitView, relu: bool) -> Made:
    """Call the operator as it stands."""
    args = fx.node.map_arg(view.anchor.args, view.lowered)
    kwargs = fx.node.map_arg(dict(view.anchor.kwargs), view.lowered)
    return Made(args, kwargs, target=view.anchor.target)


def through(function: Callable[..., Any], named: bool) -> Callable[[UnitView, bool], Made]:
    """Call one of ours with the anchor's arguments, its catalogue name first when ``named``."""

    def make(view: UnitView, relu: bool) -> Made:
        plain = same_function(view, relu)
        args = (view.row.name, *plain.args) if named else plain.args
        return Made(args, plain.kwargs, target=function)

    return make


def in_float(view: UnitView, relu: bool) -> Made:
    """Call the operator in float32, with a range of its own."""
    plain = same_function(view, relu)
    kernel = InFloat(view.scale, view.zero_point, view.row.name, contiguous=bool(view.bound.get("antialias")))
    return Made(plain.args, plain.kwargs, module=kernel)


def _same_value(view: UnitView, relu: bool) -> Made:
    """Nothing writes into the tensors of a lowered model, so copies are not needed."""
    return Made((view.input,), target="detach")


def _convert(view: UnitView, relu: bool) -> Made:
    layout = view.bound.get("memory_format")
    if layout in (None, torch.preserve_format):
        return _same_value(view, relu)
    return Made((view.input,), {"memory_format": layout}, target="contiguous")


def _refuse_conversion(call: Call) -> str:
    before = info(call.bound["input"]).tensor
    if before is None or call.output is None:
        return "what it converts is not known"
    if before.dtype != call.output.dtype:
        return f"it converts from {str(before.dtype).removeprefix('torch.')}"
    return "" if before.device == call.output.device else f"it moves to {call.output.device}"


def _pad(view: UnitView, relu: bool) -> Made:
    bound = view.bound
    amounts, fill = fx.node.map_arg(bound["pad"], view.lowered), integer_of(bound["value"] or 0, view)
    if view.unit.inputs[0].range_class == view.unit.output:
        return Made((view.input, amounts, fill), target=movement.pad_integers)
    return Made((view.input, amounts, "constant", fill), module=Joined(view.scale, view.zero_point, "pad"))


def _refuse_fold(call: Call) -> str:
    steps, taps, dilation = (as_tuple(call.bound[name], 2) for name in ("stride", "kernel_size", "dilation"))
    overlaps = any(step < tap for step, tap in zip(steps, taps, strict=True))
    if overlaps or max(dilation) > 1:
        return "its windows overlap and are added up, so there is no int8 kernel"
    return ""


def _refuse_random(call: Call) -> str:
    return "" if call.bound["_random_samples"] is not None else "its windows are random"


def choose_index(call: Call) -> Kernel:
    """Slices and numbers look into the tensor; positions and masks copy out of it."""
    index = call.bound["index"]
    parts = index if isinstance(index, tuple) else (index,)
    if all(part is None or part is Ellipsis or isinstance(part, (int, slice)) for part in parts):
        return Kernel("same_function", "operator.getitem")
    return Kernel("on_integers", "operator.getitem on integers")


def choose_pad(call: Call) -> Kernel:
    """A constant has to be written as an integer; other modes write what is there."""
    return Kernel("pad_constant" if call.bound["mode"] == "constant" else "on_integers", "aten.pad on integers")


def choose_resize(call: Call) -> Kernel:
    """Nearest moves numbers. The linear ones stay within the input's range; bicubic overshoots it."""
    mode = str(call.bound["mode"])
    if mode.startswith("nearest"):
        return Kernel("resize_nearest", f"aten.upsample_{mode.replace('-', '_')}")
    return Kernel("in_float" if mode == "bicubic" else "resize", f"{mode} in float32")


CONVENTIONS = {
    "same_function": Convention(same_function),
    "element": Convention(same_function),
    "on_integers": Convention(through(movement.on_integers, named=True)),
    "through_float": Convention(through(movement.through_float, named=True)),
    "same_value": Convention(_same_value),
    "conversion": Convention(_convert, _refuse_conversion),
    "pad_constant": Convention(_pad, refuse_fill, rate=JOIN_RATE),
    "unfold": Convention(through(movement.unfold, named=False)),
    "fold": Convention(through(movement.through_float, named=True), _refuse_fold),
    "fractional": Convention(through(movement.through_float, named=True), _refuse_random),
    "pixel_shuffle": Convention(through(movement.pixel_shuffle, named=False)),
    "resize_nearest": Convention(through(movement.resize_nearest, named=False)),
    "resize": Convention(through(movement.resize, named=False), rate=_RESIZE_RATE),
    "in_float": Convention(in_float, own_range=always, rate=_RESIZE_RATE),
}

CHOICES: dict[str, Callable[[Call], Kernel]] = {
    "getitem": choose_index,
    "pad": choose_pad,
    "interpolate": choose_resize,
}
