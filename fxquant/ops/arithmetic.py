"""Arithmetic of tensors with tensors, scalars and constants of the model."""

from __future__ import annotations

import operator

import torch

from fxquant.ops.opdef import Example, FloatOnly, Kernel, OpDef, Requantize

_PAIR = (Example(((2, 3, 6, 6), (2, 3, 6, 6))), Example(((2, 3, 6, 6), (1, 3, 1, 1))))
_NUMBERS = (Example(((2, 3, 6, 6),), {"other": 0.7}), Example(((2, 3, 6, 6),), {"other": -1.3}))
_LOOKUP = {"native": Kernel("lookup", "table of 256")}
_DOCS = "https://docs.pytorch.org/docs/stable/generated/torch."

ADD = OpDef(
    name="add",
    target=torch.add,
    signature="input, other, *, alpha=1",
    functions=(operator.add, operator.iadd),
    methods=("add", "add_", "__add__", "__radd__", "__iadd__"),
    activations=("input", "other"),
    output=Requantize(),
    kernels={"native": Kernel("binary", "quantized.add")},
    examples=(*_PAIR, *_NUMBERS),
    source=_DOCS + "add.html",
)

SUB = OpDef(
    name="sub",
    target=torch.sub,
    signature="input, other, *, alpha=1",
    functions=(operator.sub, operator.isub, torch.subtract),
    methods=("sub", "sub_", "subtract", "subtract_", "__sub__", "__isub__"),
    activations=("input", "other"),
    output=Requantize(),
    kernels={"native": Kernel("binary", "quantized.sub")},
    examples=(*_PAIR, *_NUMBERS),
    source=_DOCS + "sub.html",
)

MUL = OpDef(
    name="mul",
    target=torch.mul,
    signature="input, other",
    functions=(operator.mul, operator.imul, torch.multiply),
    methods=("mul", "mul_", "multiply", "multiply_", "__mul__", "__rmul__", "__imul__"),
    activations=("input", "other"),
    output=Requantize(),
    kernels={"native": Kernel("binary", "quantized.mul")},
    examples=(*_PAIR, *_NUMBERS),
    source=_DOCS + "mul.html",
)

DIV = OpDef(
    name="div",
    target=torch.div,
    signature="input, other, *, rounding_mode=None",
    functions=(operator.truediv, operator.itruediv, torch.divide, torch.true_divide),
    methods=("div", "div_", "divide", "divide_", "true_divide", "__truediv__", "__itruediv__"),
    activations=("input", "other"),
    output=FloatOnly(),
    examples=(*_PAIR, *_NUMBERS),
    source=_DOCS + "div.html",
)


def _float_binary(name: str, *functions: object) -> OpDef:
    return OpDef(
        name=name,
        target=getattr(torch, name),
        signature="input, other",
        functions=functions,  # type: ignore[arg-type]
        methods=(name, f"{name}_"),
        activations=("input", "other"),
        examples=_PAIR,
        source=f"{_DOCS}{name}.html",
    )


def _function_of_one(name: str, *functions: object) -> OpDef:
    return OpDef(
        name=name,
        target=getattr(torch, name),
        signature="input",
        functions=functions,  # type: ignore[arg-type]
        methods=(name, f"{name}_"),
        output=Requantize(),
        kernels=_LOOKUP,
        examples=(Example(((2, 3, 6, 6),)),),
        source=f"{_DOCS}{name}.html",
    )


FLOAT_BINARY = (
    _float_binary("maximum"),
    _float_binary("minimum"),
    OpDef(
        name="matmul",
        target=torch.matmul,
        signature="input, other",
        functions=(operator.matmul, torch.bmm, torch.mm),
        methods=("matmul", "bmm", "mm", "__matmul__"),
        activations=("input", "other"),
        macs=lambda other, output: _product(output) * (other[-2] if len(other) > 1 else other[-1]),
        output=FloatOnly(),
        examples=(Example(((2, 5, 8), (2, 8, 4))), Example(((3, 8), (8, 4)))),
        source=_DOCS + "matmul.html",
    ),
    OpDef(
        name="pow",
        target=torch.pow,
        signature="input, exponent",
        functions=(operator.pow,),
        methods=("pow", "pow_", "__pow__", "__rpow__"),
        activations=("input", "exponent"),
        output=Requantize(),
        kernels=_LOOKUP,
        examples=(Example(((2, 3, 6, 6),), {"exponent": 2}),),
        source=_DOCS + "pow.html",
    ),
)

FUNCTIONS_OF_ONE = (
    _function_of_one("abs", operator.abs),
    _function_of_one("sqrt"),
    _function_of_one("rsqrt"),
    _function_of_one("exp"),
    _function_of_one("log"),
    _function_of_one("square"),
    OpDef(
        name="neg",
        target=torch.neg,
        signature="input",
        functions=(operator.neg, torch.negative),
        methods=("neg", "neg_", "negative", "__neg__"),
        output=Requantize(),
        kernels=_LOOKUP,
        examples=(Example(((2, 3, 6, 6),)),),
        source=_DOCS + "neg.html",
    ),
)

RSUB = OpDef(
    name="rsub",
    target=torch.rsub,
    signature="input, other, *, alpha=1",
    methods=("__rsub__",),
    activations=("input", "other"),
    output=FloatOnly(),
    examples=_NUMBERS,
    source=_DOCS + "sub.html",
)


def _product(shape: tuple[int, ...]) -> int:
    out = 1
    for size in shape:
        out *= size
    return out


ROWS = (ADD, SUB, MUL, DIV, RSUB, *FLOAT_BINARY, *FUNCTIONS_OF_ONE)
