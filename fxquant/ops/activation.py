"""Activations: clips, functions with an integer kernel, and those computed in float between integers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from fxquant.ops.opdef import Bound, Example, Fixed, FloatOnly, Kernel, OpDef, Requantize, Selects

_IMAGE = (Example(((2, 3, 6, 6),)),)
_LOOKUP = {"native": Kernel("lookup", "table of 256")}
_DOCS = "https://docs.pytorch.org/docs/stable/generated/torch.nn.functional."


def _bounds(bound: Bound) -> tuple[float | None, float | None]:
    low, high = bound["min"], bound["max"]
    return _number(low), _number(high)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


RELU = OpDef(
    name="relu",
    target=F.relu,
    signature="input, inplace=False",
    functions=(torch.relu, torch.relu_, F.relu_),
    methods=("relu", "relu_"),
    output=Selects(),
    clip=lambda bound: (0.0, None),
    kernels={"native": Kernel("clip", "aten.clamp on integers")},
    examples=_IMAGE,
    source=_DOCS + "relu.html",
)

RELU6 = OpDef(
    name="relu6",
    target=F.relu6,
    signature="input, inplace=False",
    output=Selects(),
    clip=lambda bound: (0.0, 6.0),
    kernels={"native": Kernel("clip", "aten.clamp on integers")},
    examples=_IMAGE,
    source=_DOCS + "relu6.html",
)

HARDTANH = OpDef(
    name="hardtanh",
    target=F.hardtanh,
    signature="input, min_val=-1.0, max_val=1.0, inplace=False",
    functions=(F.hardtanh_,),
    output=Selects(),
    clip=lambda bound: (float(bound["min_val"]), float(bound["max_val"])),
    kernels={"native": Kernel("clip", "aten.clamp on integers")},
    examples=_IMAGE,
    source=_DOCS + "hardtanh.html",
)

CLAMP = OpDef(
    name="clamp",
    target=torch.clamp,
    signature="input, min=None, max=None",
    functions=(torch.clamp_, torch.clip, torch.clip_),
    methods=("clamp", "clamp_", "clip", "clip_"),
    output=Selects(),
    clip=_bounds,
    kernels={"native": Kernel("clip", "aten.clamp on integers")},
    examples=(Example(((2, 3, 6, 6),), {"min": -0.4, "max": 0.7}),),
    source="https://docs.pytorch.org/docs/stable/generated/torch.clamp.html",
)

CLAMP_MIN = OpDef(
    name="clamp_min",
    target=torch.clamp_min,
    signature="input, min",
    functions=(torch.clamp_min_,),
    methods=("clamp_min", "clamp_min_"),
    output=Selects(),
    clip=lambda bound: (_number(bound["min"]), None),
    kernels={"native": Kernel("clip", "aten.clamp on integers")},
    examples=(Example(((2, 3, 6, 6),), {"min": -0.4}),),
    source="https://docs.pytorch.org/docs/stable/generated/torch.clamp.html",
)

CLAMP_MAX = OpDef(
    name="clamp_max",
    target=torch.clamp_max,
    signature="input, max",
    functions=(torch.clamp_max_,),
    methods=("clamp_max", "clamp_max_"),
    output=Selects(),
    clip=lambda bound: (None, _number(bound["max"])),
    kernels={"native": Kernel("clip", "aten.clamp on integers")},
    examples=(Example(((2, 3, 6, 6),), {"max": 0.7}),),
    source="https://docs.pytorch.org/docs/stable/generated/torch.clamp.html",
)

LEAKY_RELU = OpDef(
    name="leaky_relu",
    target=F.leaky_relu,
    signature="input, negative_slope=0.01, inplace=False",
    functions=(F.leaky_relu_,),
    output=Requantize(),
    kernels=_LOOKUP,
    examples=(Example(((2, 3, 6, 6),), {"negative_slope": 0.1}),),
    source=_DOCS + "leaky_relu.html",
)

HARDSWISH = OpDef(
    name="hardswish",
    target=F.hardswish,
    signature="input, inplace=False",
    output=Requantize(),
    kernels=_LOOKUP,
    examples=_IMAGE,
    source=_DOCS + "hardswish.html",
)

ELU = OpDef(
    name="elu",
    target=F.elu,
    signature="input, alpha=1.0, inplace=False",
    functions=(F.elu_,),
    output=Requantize(),
    kernels=_LOOKUP,
    examples=_IMAGE,
    source=_DOCS + "elu.html",
)

SIGMOID = OpDef(
    name="sigmoid",
    target=torch.sigmoid,
    signature="input",
    functions=(F.sigmoid, torch.sigmoid_, torch.special.expit),
    methods=("sigmoid", "sigmoid_"),
    output=Fixed(1 / 256, 0),
    kernels=_LOOKUP,
    examples=_IMAGE,
    source="https://docs.pytorch.org/docs/stable/generated/torch.sigmoid.html",
)

TANH = OpDef(
    name="tanh",
    target=torch.tanh,
    signature="input",
    functions=(F.tanh, torch.tanh_),
    methods=("tanh", "tanh_"),
    output=Fixed(2 / 256, 128),
    kernels=_LOOKUP,
    examples=_IMAGE,
    source="https://docs.pytorch.org/docs/stable/generated/torch.tanh.html",
)

HARDSIGMOID = OpDef(
    name="hardsigmoid",
    target=F.hardsigmoid,
    signature="input, inplace=False",
    output=Fixed(1 / 256, 0),
    kernels=_LOOKUP,
    examples=_IMAGE,
    source=_DOCS + "hardsigmoid.html",
)


def _function_of_one(name: str, signature: str = "input", functions: tuple[Any, ...] = ()) -> OpDef:
    target = getattr(F, name)
    return OpDef(
        name=name,
        target=target,
        signature=signature,
        functions=functions,
        output=Requantize(),
        kernels=_LOOKUP,
        examples=_IMAGE,
        source=f"{_DOCS}{name}.html",
    )


OTHERS = (
    _function_of_one("gelu", "input, *, approximate='none'"),
    _function_of_one("silu", "input, inplace=False"),
    _function_of_one("mish", "input, inplace=False"),
    _function_of_one("selu", "input, inplace=False", functions=(torch.selu, torch.selu_)),
    _function_of_one("celu", "input, alpha=1.0, inplace=False", functions=(torch.celu, torch.celu_)),
    _function_of_one("softplus", "input, beta=1.0, threshold=20.0"),
    _function_of_one("softsign"),
    _function_of_one("logsigmoid"),
    OpDef(
        name="glu",
        target=F.glu,
        signature="input, dim=-1",
        examples=_IMAGE,
        source=_DOCS + "glu.html",
    ),
    OpDef(
        name="softmax",
        target=F.softmax,
        signature="input, dim=None, _stacklevel=3, dtype=None",
        functions=(torch.softmax,),
        methods=("softmax",),
        output=FloatOnly(),
        examples=(Example(((2, 3, 6),), {"dim": -1}),),
        source=_DOCS + "softmax.html",
    ),
    OpDef(
        name="prelu",
        target=F.prelu,
        signature="input, weight",
        functions=(torch.prelu,),
        methods=("prelu",),
        weights=("weight",),
        output=FloatOnly("torch's int8 prelu multiplies positives by the slope's scale"),
        examples=_IMAGE,
        source=_DOCS + "prelu.html",
    ),
)

ROWS = (
    RELU, RELU6, HARDTANH, CLAMP, CLAMP_MIN, CLAMP_MAX, LEAKY_RELU, HARDSWISH, ELU, SIGMOID, TANH, HARDSIGMOID,
    *OTHERS,
)  # fmt: skip
