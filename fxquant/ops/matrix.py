"""Products of matrices."""

from __future__ import annotations

import operator
from math import prod

import torch
import torch.nn.functional as F

from fxquant.ops.opdef import Example, FloatOnly, Kernel, OpDef, Requantize

_DOCS = "https://docs.pytorch.org/docs/stable/generated/torch."


def _matmul_macs(other: tuple[int, ...], output: tuple[int, ...]) -> int:
    """Every output element sums over the rows of the second operand (other: [..., k, n], or [k])."""
    return prod(output) * (other[-2] if len(other) > 1 else other[-1])


MATMUL = OpDef(
    name="matmul",
    target=torch.matmul,
    signature="input, other",
    functions=(operator.matmul, torch.bmm, torch.mm, torch.mv, torch.linalg.matmul),
    methods=("matmul", "bmm", "mm", "mv", "__matmul__", "__rmatmul__"),
    renamed={"mat2": "other", "vec": "other"},
    activations=("input", "other"),
    output=Requantize(),
    kernels={"native": Kernel("matmul", "quantized.matmul")},
    macs=_matmul_macs,
    examples=(
        Example(((2, 5, 8), (2, 8, 4))),
        Example(((3, 8), (8, 4))),
        Example(((2, 3, 5, 8), (3, 8, 4))),
    ),
    source=_DOCS + "matmul.html",
)

ADDMM = OpDef(
    name="addmm",
    target=torch.addmm,
    signature="input, mat1, mat2, *, beta=1, alpha=1",
    methods=("addmm", "addmm_"),
    activations=("input", "mat1", "mat2"),
    output=FloatOnly(),
    examples=(Example(((3, 4), (3, 8), (8, 4))),),
    source=_DOCS + "addmm.html",
)

EINSUM = OpDef(
    name="einsum",
    target=torch.einsum,
    signature="equation, *operands",
    activations=("operands",),
    output=FloatOnly("this sum of products has no int8 kernel"),
    source=_DOCS + "einsum.html",
)

OUTER = OpDef(
    name="outer",
    target=torch.outer,
    signature="input, vec2",
    functions=(torch.ger,),
    methods=("outer", "ger"),
    activations=("input", "vec2"),
    output=FloatOnly(),
    examples=(Example(((6,), (6,))),),
    source=_DOCS + "outer.html",
)

BILINEAR = OpDef(
    name="bilinear",
    target=F.bilinear,
    signature="input1, input2, weight, bias=None",
    activations=("input1", "input2"),
    weights=("weight", "bias"),
    output=FloatOnly(),
    examples=(Example(((3, 5), (3, 7))),),
    source=_DOCS + "nn.functional.bilinear.html",
)

ROWS = (MATMUL, ADDMM, EINSUM, OUTER, BILINEAR)
