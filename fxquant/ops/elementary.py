"""Elementary functions of one number: powers, exponentials, angles, roundings."""

from __future__ import annotations

from fxquant.ops.opdef import Example, OpDef
from fxquant.ops.pointwise import IMAGE, pointwise

_SHAPES = IMAGE[0].shapes

POWERS = (
    pointwise("neg", aliases=("negative",)),
    pointwise("positive", aliases=("pos",)),
    pointwise("abs", aliases=("absolute",)),
    pointwise("sqrt"),
    pointwise("rsqrt"),
    pointwise("square"),
    pointwise("reciprocal"),
)

EXPONENTIALS = (
    pointwise("exp"),
    pointwise("expm1"),
    pointwise("exp2"),
    pointwise("log"),
    pointwise("log2"),
    pointwise("log10"),
    pointwise("log1p"),
    pointwise("erf"),
    pointwise("erfc"),
)

_ANGLES = ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh")
ANGLES = (
    *(pointwise(name, aliases=(f"arc{name[1:]}",) if name[0] == "a" else ()) for name in _ANGLES),
    pointwise("sinc"),
    pointwise("deg2rad"),
    pointwise("rad2deg"),
)

ROUNDINGS = (
    pointwise("sign"),
    pointwise("sgn"),
    pointwise("round", "input, *, decimals=0", examples=(*IMAGE, Example(_SHAPES, {"decimals": 1}))),
    pointwise("floor"),
    pointwise("ceil"),
    pointwise("trunc", aliases=("fix",)),
    pointwise("frac"),
    pointwise("nan_to_num", "input, nan=0.0, posinf=None, neginf=None"),
)

ROWS: tuple[OpDef, ...] = (*POWERS, *EXPONENTIALS, *ANGLES, *ROUNDINGS)
