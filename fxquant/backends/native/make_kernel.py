"""From a planned unit to the kernel call that runs it: one function per calling convention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from fxquant.backends.native.kernels import movement
from fxquant.backends.native.kernels.elementwise import Binary, Cat, Clip, Constant, Unary
from fxquant.backends.native.kernels.weighted import Conv, Linear
from fxquant.ir.containers import KERNELS, RANGES
from fxquant.ir.edit import get_tensor
from fxquant.ir.quant_plan import Unit
from fxquant.ir.stages import ReferenceModel
from fxquant.numerics.conv_geometry import as_tuple, fold_pads, split_pads
from fxquant.ops import catalogue
from fxquant.ops.opdef import Bound, OpDef

# A range may leave the clip by this share of itself and still count as inside: rounding of its scale.
_TOLERANCE = 1e-5


@dataclass
class Made:
    """One node to add: a kernel module, or a function or method target.

    Attributes:
        args, kwargs: lowered arguments.
        module: kernel module, or None.
        target: function or method name when there is no module.
        suffix: appended to the unit's name.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    module: nn.Module | None = None
    target: Any = None
    suffix: str = ""


@dataclass
class UnitView:
    """What a kernel maker reads.

    Attributes:
        unit: the planned unit, anchor: its computing node in the reference graph.
        members: all its nodes in the reference graph.
        reference: the model that holds weights and parameters.
        lowered: maps an argument of a reference node to its lowered form.
        previous: the node made before, for a clip that follows a kernel.
    """

    unit: Unit
    anchor: fx.Node
    members: list[fx.Node]
    reference: ReferenceModel
    lowered: Callable[[Any], Any]
    previous: fx.Node | None = None

    @property
    def row(self) -> OpDef:
        """Catalogue row of the anchor."""
        return catalogue.row_of(self.anchor)

    @property
    def bound(self) -> Bound:
        """The anchor's arguments by name, in the reference graph."""
        return catalogue.arguments(self.anchor, self.row)

    @property
    def scale(self) -> Tensor:
        """float32 [], scale of the output."""
        return get_tensor(self.reference, f"{RANGES}.{self.unit.output}.scale")

    @property
    def zero_point(self) -> Tensor:
        """int64 [], zero point of the output."""
        return get_tensor(self.reference, f"{RANGES}.{self.unit.output}.zero_point")

    def member(self, role: str) -> fx.Node | None:
        """The member node that plays a role."""
        name = self.unit.role(role)
        return next((node for node in self.members if node.name == name), None)

    def tensor(self, key: str) -> Tensor | None:
        """A buffer of this unit, None when there is none."""
        try:
            return get_tensor(self.reference, f"{KERNELS}.{self.unit.name}.{key}")
        except AttributeError:
            return None


def make_kernel(view: UnitView) -> Iterator[Made]:
    """Yield the nodes that run a unit, in order; ``view.previous`` is set between them."""
    assert view.unit.kernel is not None
    bounds = _needed_clip(view)
    relu_only = bounds is not None and bounds[0] == 0.0 and bounds[1] is None
    has_relu = view.unit.kernel.convention in ("conv", "linear", "binary")
    yield _MAKERS[view.unit.kernel.convention](view, relu_only and has_relu)
    if bounds is not None and not (relu_only and has_relu):
        yield Made((view.previous,), module=Clip(view.scale, view.zero_point, *bounds), suffix="_clip")


def _needed_clip(view: UnitView) -> tuple[float | None, float | None] | None:
    """The absorbed clip's bounds that the output's range does not already respect; None when it respects all."""
    clip = view.member("clip")
    if clip is None:
        return None
    row = catalogue.row_of(clip)
    assert row.clip is not None
    low, high = row.clip(catalogue.arguments(clip, row))
    scale, zero_point = float(view.scale), int(view.zero_point)
    lowest, highest = -zero_point * scale, (255 - zero_point) * scale
    margin = _TOLERANCE * (highest - lowest)
    low = None if low is None or lowest >= low - margin else low
    high = None if high is None or highest <= high + margin else high
    return None if low is None and high is None else (low, high)


def _input(view: UnitView) -> Any:
    """The lowered activation input of a unit; for a folded pad, the pad's input."""
    pad = view.member("pad")
    return view.lowered(view.bound["input"] if pad is None else pad.args[0])


def _weighted_tensors(view: UnitView) -> dict[str, Tensor | None]:
    return {key: view.tensor(key) for key in ("weight", "weight_scale", "weight_zero_point", "bias")}


def _conv(view: UnitView, relu: bool) -> Made:
    bound, tensors = view.bound, _weighted_tensors(view)
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
    return Made((_input(view),), module=kernel)


def _linear(view: UnitView, relu: bool) -> Made:
    assert view.unit.kernel is not None
    kernel = Linear(_weighted_tensors(view), view.scale, view.zero_point, view.unit.kernel.engine, relu)
    return Made((_input(view),), module=kernel)


def _binary(view: UnitView, relu: bool) -> Made:
    bound, sources = view.bound, [edge.source for edge in view.unit.inputs]
    operands = [bound["input"], bound["other"]]
    constants = [_constant(view, name, bound[name]) for name in ("input", "other")]
    constant = next((item for item in constants if item is not None), None)
    args = tuple(view.lowered(o) for o, c in zip(operands, constants, strict=True) if c is None)
    assert sources
    kernel = Binary(view.row.name, view.scale, view.zero_point, relu, constant, constants[0] is not None)
    return Made(args, module=kernel)


def _constant(view: UnitView, operand: str, value: Any) -> Constant | None:
    if not isinstance(value, fx.Node):
        return Constant.of_number(float(value))
    parts = [view.tensor(f"{operand}{key}") for key in ("", "_scale", "_zero_point")]
    integers, scale, zero_point = parts
    if integers is None or scale is None or zero_point is None:
        return None
    return Constant(integers, scale, zero_point)


def _unary(view: UnitView, relu: bool) -> Made:
    parameter = {"leaky_relu": "negative_slope", "elu": "alpha"}.get(view.row.name)
    number = float(view.bound[parameter]) if parameter else 0.0
    return Made((_input(view),), module=Unary(view.row.name, view.scale, view.zero_point, number))


def _cat(view: UnitView, relu: bool) -> Made:
    kernel = Cat(view.scale, view.zero_point, view.bound["dim"], stack=view.row.name == "stack")
    return Made(tuple(view.lowered(item) for item in view.bound["tensors"]), module=kernel)


def _clip(view: UnitView, relu: bool) -> Made:
    assert view.row.clip is not None
    low, high = view.row.clip(view.bound)
    return Made((_input(view),), module=Clip(view.scale, view.zero_point, low, high))


def _same_function(view: UnitView, relu: bool) -> Made:
    args = fx.node.map_arg(view.anchor.args, view.lowered)
    kwargs = fx.node.map_arg(dict(view.anchor.kwargs), view.lowered)
    return Made(args, kwargs, target=view.anchor.target)


def _through(function: Callable[..., Tensor], named: bool) -> Callable[[UnitView, bool], Made]:
    """Call one of ours with the anchor's arguments, its catalogue name first when ``named``."""

    def make(view: UnitView, relu: bool) -> Made:
        plain = _same_function(view, relu)
        args = (view.row.name, *plain.args) if named else plain.args
        return Made(args, plain.kwargs, target=function)

    return make


_ON_INTEGERS = _through(movement.on_integers, named=True)
_MAKERS: dict[str, Callable[[UnitView, bool], Made]] = {
    "conv": _conv,
    "linear": _linear,
    "binary": _binary,
    "unary": _unary,
    "leaky_relu": _unary,
    "elu": _unary,
    "cat": _cat,
    "stack": _cat,
    "clip": _clip,
    "same_function": _same_function,
    "average": _same_function,
    "element": _same_function,
    "on_integers": _ON_INTEGERS,
    "pool_integers": _through(movement.pool_integers, named=True),
    "pad": _through(movement.pad_integers, named=False),
    "interpolate": _ON_INTEGERS,
}
