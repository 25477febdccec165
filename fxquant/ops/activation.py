"""Activations: clips, which are exact on integers, and functions of one number, which are tables."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fxquant.ops.opdef import Bound, Example, Fixed, FloatOnly, Kernel, OpDef, Requantize, Selects
from fxquant.ops.pointwise import DOCS, IMAGE, LOOKUP, functions_called, methods_called, pointwise

_SHAPES = IMAGE[0].shapes
_CLIP = {"native": Kernel("clip", "aten.clamp on integers")}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _bounds(bound: Bound) -> tuple[float | None, float | None]:
    return _number(bound["min"]), _number(bound["max"])


RELU = OpDef(
    name="relu",
    target=F.relu,
    signature="input, inplace=False",
    functions=functions_called("relu"),
    methods=methods_called("relu"),
    output=Selects(),
    clip=lambda bound: (0.0, None),
    pointwise=True,
    kernels=_CLIP,
    examples=IMAGE,
    source=DOCS + "nn.functional.relu.html",
)

RELU6 = OpDef(
    name="relu6",
    target=F.relu6,
    signature="input, inplace=False",
    output=Selects(),
    clip=lambda bound: (0.0, 6.0),
    pointwise=True,
    kernels=_CLIP,
    examples=IMAGE,
    source=DOCS + "nn.functional.relu6.html",
)

HARDTANH = OpDef(
    name="hardtanh",
    target=F.hardtanh,
    signature="input, min_val=-1.0, max_val=1.0, inplace=False",
    functions=functions_called("hardtanh"),
    output=Selects(),
    clip=lambda bound: (float(bound["min_val"]), float(bound["max_val"])),
    pointwise=True,
    kernels=_CLIP,
    examples=(*IMAGE, Example(_SHAPES, {"min_val": -0.4, "max_val": 0.7})),
    source=DOCS + "nn.functional.hardtanh.html",
)

CLAMP = OpDef(
    name="clamp",
    target=torch.clamp,
    signature="input, min=None, max=None",
    functions=functions_called("clamp", "clip"),
    methods=methods_called("clamp", "clip"),
    activations=("input", "min", "max"),
    output=Selects(),
    clip=_bounds,
    pointwise=True,
    kernels=_CLIP,
    examples=(
        Example(_SHAPES, {"min": -0.4, "max": 0.7}),
        Example(_SHAPES, {"max": 0.5}),
        Example(_SHAPES, {"min": 0.5}),  # zero lies outside: a range of its own
        Example(_SHAPES, {"min": torch.tensor([[[-0.5]], [[0.0]], [[-1.0]]])}),
        Example((*_SHAPES, *_SHAPES)),
        Example((*_SHAPES, *_SHAPES, *_SHAPES), outcome="step"),
    ),
    source=DOCS + "clamp.html",
)

CLAMP_MIN = OpDef(
    name="clamp_min",
    target=torch.clamp_min,
    signature="input, min",
    functions=functions_called("clamp_min"),
    methods=methods_called("clamp_min"),
    activations=("input", "min"),
    output=Selects(),
    clip=lambda bound: (_number(bound["min"]), None),
    pointwise=True,
    kernels=_CLIP,
    examples=(Example(_SHAPES, {"min": -0.4}), Example((*_SHAPES, *_SHAPES))),
    source=DOCS + "clamp.html",
)

CLAMP_MAX = OpDef(
    name="clamp_max",
    target=torch.clamp_max,
    signature="input, max",
    functions=functions_called("clamp_max"),
    methods=methods_called("clamp_max"),
    activations=("input", "max"),
    output=Selects(),
    clip=lambda bound: (None, _number(bound["max"])),
    pointwise=True,
    kernels=_CLIP,
    examples=(Example(_SHAPES, {"max": 0.7}), Example((*_SHAPES, *_SHAPES))),
    source=DOCS + "clamp.html",
)

PRELU = OpDef(
    name="prelu",
    target=F.prelu,
    signature="input, weight",
    methods=("prelu",),
    weights=("weight",),
    output=Requantize(),
    pointwise=True,
    channel_axis=1,
    kernels=LOOKUP,
    examples=(*IMAGE, Example(((3, 5),)), Example(((2, 1, 6, 6),))),
    source=DOCS + "nn.functional.prelu.html",
)

TABLES = (
    pointwise("leaky_relu", "input, negative_slope=0.01, inplace=False",
              examples=(*IMAGE, Example(_SHAPES, {"negative_slope": 0.1}))),
    pointwise("rrelu", "input, lower=0.125, upper=0.3333333333333333, training=False, inplace=False",
              examples=(*IMAGE, Example(_SHAPES, {"lower": 0.1, "upper": 0.3}))),
    pointwise("hardswish", "input, inplace=False"),
    pointwise("hardsigmoid", "input, inplace=False", output=Fixed(1 / 256, 0)),
    pointwise("sigmoid", aliases=("expit",), output=Fixed(1 / 256, 0)),
    pointwise("logsigmoid"),
    pointwise("logit", "input, eps=None", examples=(Example(_SHAPES, {"eps": 0.01}),)),
    pointwise("tanh", output=Fixed(2 / 256, 128)),
    pointwise("gelu", "input, *, approximate='none'", examples=(*IMAGE, Example(_SHAPES, {"approximate": "tanh"}))),
    pointwise("silu", "input, inplace=False"),
    pointwise("mish", "input, inplace=False"),
    pointwise("elu", "input, alpha=1.0, inplace=False", examples=(*IMAGE, Example(_SHAPES, {"alpha": 0.7}))),
    pointwise("selu", "input, inplace=False"),
    pointwise("celu", "input, alpha=1.0, inplace=False", examples=(*IMAGE, Example(_SHAPES, {"alpha": 0.7}))),
    pointwise("softplus", "input, beta=1.0, threshold=20.0",
              examples=(*IMAGE, Example(_SHAPES, {"beta": 2.0, "threshold": 1.5}))),
    pointwise("softsign"),
    pointwise("hardshrink", "input, lambd=0.5", examples=(*IMAGE, Example(_SHAPES, {"lambd": 0.2}))),
    pointwise("softshrink", "input, lambd=0.5", examples=(*IMAGE, Example(_SHAPES, {"lambd": 0.2}))),
    pointwise("tanhshrink"),
    pointwise("threshold", "input, threshold, value, inplace=False",
              examples=(Example(_SHAPES, {"threshold": 0.1, "value": -0.5}),)),
)  # fmt: skip

GLU = OpDef(
    name="glu",
    target=F.glu,
    signature="input, dim=-1",
    output=Requantize(),
    kernels={"native": Kernel("glu", "table of 65,536 on halves")},
    examples=(*IMAGE, Example(((2, 4, 6, 6),), {"dim": 1})),
    source=DOCS + "nn.functional.glu.html",
)

_SOFTMAX = "input, dim=None, _stacklevel=3, dtype=None"
_TORCH_SOFTMAX = "input, dim, dtype=None"


def _softmax(name: str) -> OpDef:
    spelled = {function: _TORCH_SOFTMAX for function in functions_called(name) if function is not getattr(F, name)}
    return OpDef(
        name=name,
        target=getattr(F, name),
        signature=_SOFTMAX,
        signatures={**spelled, name: _TORCH_SOFTMAX},
        functions=tuple(spelled),
        methods=methods_called(name),
        output=FloatOnly("no integer sums of exponentials"),
        examples=(Example(((2, 3, 6),), {"dim": -1}), Example(((2, 3, 6, 6),), {"dim": 1})),
        source=f"{DOCS}nn.functional.{name}.html",
    )


ROWS = (
    RELU, RELU6, HARDTANH, CLAMP, CLAMP_MIN, CLAMP_MAX, PRELU, *TABLES, GLU,
    *(_softmax(name) for name in ("softmax", "log_softmax", "softmin")),
)  # fmt: skip
