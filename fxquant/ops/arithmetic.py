"""Arithmetic of tensors with tensors, numbers and constants of the model."""

from __future__ import annotations

import operator
from typing import Any

import torch

from fxquant.ops.opdef import Example, Kernel, OpDef, Requantize
from fxquant.ops.pointwise import DOCS, PAIRS, functions_called, methods_called

_IMAGE = (2, 3, 6, 6)
_ROW = torch.tensor([0.5, -1.5, 2.0, 0.25, 1.0, -0.75])
_CHANNELS = torch.tensor([1.5, -0.5, 0.25]).reshape(3, 1, 1)
_MAP = torch.linspace(-2.0, 2.0, 36).reshape(6, 6)
_PAIR = (Example((_IMAGE, _IMAGE)), Example((_IMAGE, (1, 3, 1, 1))), Example(((2, 3, 1, 6), (2, 3, 6, 1))))
_NUMBERS = tuple(Example((_IMAGE,), {"other": number}) for number in (0.7, -1.3, 1000.0, 0.0))
_CONSTANTS = tuple(Example((_IMAGE,), {"other": value}) for value in (torch.tensor(0.3), _CHANNELS, _ROW, _MAP))


def _arithmetic(
    name: str,
    signature: str = "input, other",
    *,
    symbols: tuple[str, ...] = (),
    kernel: Kernel | None = None,
    **more: Any,
) -> OpDef:
    """A row for arithmetic of two operands.

    Args:
        name: of torch's function.
        signature: as in ``OpDef``.
        symbols: what Python calls for its operators: ``add`` for ``+`` and ``+=``.
        kernel: torch's own for two tensors; without one a table of all pairs.
        more: further fields; ``aliases`` are other names torch has.
    """
    aliases = more.pop("aliases", ())
    operators = [getattr(operator, form) for symbol in symbols for form in (symbol, f"i{symbol}")]
    methods = [form for symbol in symbols for form in (f"__{symbol}__", f"__i{symbol}__")]
    return OpDef(
        name=name,
        target=getattr(torch, name),
        signature=signature,
        functions=(*functions_called(name, *aliases), *operators),
        methods=(*methods_called(name, *aliases), *methods),
        activations=more.pop("activations", ("input", "other")),
        output=Requantize(),
        pointwise=True,
        kernels=PAIRS if kernel is None else {"native": kernel},
        source=f"{DOCS}{name}.html",
        **more,
    )


ADD = _arithmetic(
    "add",
    "input, other, *, alpha=1",
    symbols=("add",),
    kernel=Kernel("binary", "quantized.add"),
    light=True,
    examples=(*_PAIR, *_NUMBERS, *_CONSTANTS, Example((_IMAGE, _IMAGE), {"alpha": 2})),
)

SUB = _arithmetic(
    "sub",
    "input, other, *, alpha=1",
    symbols=("sub",),
    aliases=("subtract",),
    kernel=Kernel("binary", "quantized.sub"),
    light=True,
    examples=(*_PAIR, *_NUMBERS, *_CONSTANTS, Example((_IMAGE, _IMAGE), {"alpha": 0.5})),
)

RSUB = _arithmetic("rsub", "input, other, *, alpha=1", examples=(*_PAIR, *_NUMBERS))

MUL = _arithmetic(
    "mul",
    symbols=("mul",),
    aliases=("multiply",),
    kernel=Kernel("binary", "quantized.mul"),
    examples=(*_PAIR, *_NUMBERS, *_CONSTANTS),
)

DIV = _arithmetic(
    "div",
    "input, other, *, rounding_mode=None",
    symbols=("truediv",),
    aliases=("divide", "true_divide"),
    examples=(
        *_PAIR,
        *_NUMBERS[:3],
        *_CONSTANTS[:3],
        Example((_IMAGE,), {"other": 0.3, "rounding_mode": "floor"}),
        Example((_IMAGE, _IMAGE), {"rounding_mode": "trunc"}),
    ),
)

FLOOR_DIVIDE = _arithmetic("floor_divide", symbols=("floordiv",), examples=(*_PAIR, *_NUMBERS[:2]))

REMAINDER = _arithmetic("remainder", symbols=("mod",), examples=(*_PAIR, *_NUMBERS[:2]))

FMOD = _arithmetic("fmod", examples=(*_PAIR, *_NUMBERS[:2]))

POW = _arithmetic(
    "pow",
    "input, exponent",
    symbols=("pow",),
    activations=("input", "exponent"),
    renamed={"self": "input"},
    examples=(*_PAIR, *(Example((_IMAGE,), {"exponent": power}) for power in (2, 3, 0.5, -1.5, _CHANNELS))),
)

OTHERS = (
    _arithmetic("atan2", aliases=("arctan2",), examples=_PAIR),
    _arithmetic("hypot", examples=_PAIR),
    _arithmetic("copysign", examples=(*_PAIR, *_NUMBERS[:2])),
    _arithmetic("logaddexp", examples=_PAIR),
    _arithmetic("logaddexp2", examples=_PAIR),
    _arithmetic("xlogy", examples=(*_PAIR, *_NUMBERS[:1])),
)

LERP = _arithmetic(
    "lerp",
    "input, end, weight",
    activations=("input", "end", "weight"),
    examples=(
        Example((_IMAGE, _IMAGE), {"weight": 0.3}),
        Example((_IMAGE, _IMAGE, _IMAGE), outcome="step"),
    ),
)

_THREE = ("input", "tensor1", "tensor2")
ADDCMUL = _arithmetic(
    "addcmul",
    "input, tensor1, tensor2, *, value=1",
    activations=_THREE,
    examples=(
        Example((_IMAGE, _IMAGE, _IMAGE), outcome="step"),
        Example((_IMAGE,), {"tensor1": _CHANNELS, "tensor2": _CHANNELS, "value": 2}),
    ),
)
ADDCDIV = _arithmetic(
    "addcdiv",
    "input, tensor1, tensor2, *, value=1",
    activations=_THREE,
    examples=(Example((_IMAGE, _IMAGE, _IMAGE), {"value": 0.5}, outcome="step"),),
)

ROWS = (ADD, SUB, RSUB, MUL, DIV, FLOOR_DIVIDE, REMAINDER, FMOD, POW, *OTHERS, LERP, ADDCMUL, ADDCDIV)
