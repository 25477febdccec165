"""Views, moves and selections: the operator itself on quantized tensors, or on their integers."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, fx

from fxquant.backends.native.convention import Convention, Made, UnitView
from fxquant.backends.native.kernels import movement
from fxquant.plan.backend import Call


def same_function(view: UnitView, relu: bool) -> Made:
    """Call the operator as it stands."""
    args = fx.node.map_arg(view.anchor.args, view.lowered)
    kwargs = fx.node.map_arg(dict(view.anchor.kwargs), view.lowered)
    return Made(args, kwargs, target=view.anchor.target)


def _through(function: Callable[..., Tensor], named: bool) -> Callable[[UnitView, bool], Made]:
    """Call one of ours with the anchor's arguments, its catalogue name first when ``named``."""

    def make(view: UnitView, relu: bool) -> Made:
        plain = same_function(view, relu)
        args = (view.row.name, *plain.args) if named else plain.args
        return Made(args, plain.kwargs, target=function)

    return make


def _refuse_interpolate(call: Call) -> str:
    if not str(call.bound["mode"]).startswith("nearest"):
        return f"{call.bound['mode']} interpolation has no fast int8 kernel"
    return ""


def _refuse_pad(call: Call) -> str:
    value = call.bound["value"]
    if call.bound["mode"] == "constant" and (isinstance(value, fx.Node) or (value or 0) != 0):
        return f"padding with {value}, which its range need not contain"
    return ""


_ON_INTEGERS = _through(movement.on_integers, named=True)

CONVENTIONS = {
    "same_function": Convention(same_function),
    "element": Convention(same_function),
    "on_integers": Convention(_ON_INTEGERS),
    "pool_integers": Convention(_through(movement.pool_integers, named=True)),
    "pad": Convention(_through(movement.pad_integers, named=False), _refuse_pad),
    "interpolate": Convention(_ON_INTEGERS, _refuse_interpolate),
}
