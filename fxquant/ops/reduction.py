"""Sums, means and other summaries over dimensions: exact integer sums, then one requantization."""

from __future__ import annotations

import torch

from fxquant.ops.opdef import Bound, Example, FloatOnly, Kernel, OpDef, Output, Requantize
from fxquant.ops.pointwise import DOCS

_IMAGE = ((2, 3, 6, 6),)
_SUMS = {"native": Kernel("sums", "integer sums")}
_DIMS = "input, dim=None, keepdim=False, *, dtype=None"


def _summary(
    name: str,
    signature: str = _DIMS,
    *,
    output: Output | None = None,
    examples: tuple[dict[str, object], ...] = ({"dim": (2, 3)}, {"dim": 1, "keepdim": True}, {}),
) -> OpDef:
    """One row; without ``output`` it has an integer kernel."""
    return OpDef(
        name=name,
        target=getattr(torch, name),
        signature=signature,
        methods=(name,),
        output=output or Requantize(),
        kernels=_SUMS if output is None else {},
        examples=tuple(Example(_IMAGE, kwargs) for kwargs in examples),
        source=f"{DOCS}{name}.html",
    )


def _read_unbiased(name: str) -> OpDef:
    """``var`` and ``std``: a lone truth value in the place of the dimensions is ``unbiased``."""

    def redirect(bound: Bound) -> tuple[str, Bound]:
        if isinstance(bound["dim"], bool):
            return name, {**bound, "dim": None, "unbiased": bound["dim"]}
        return name, bound

    return OpDef(
        name=name,
        target=getattr(torch, name),
        signature="input, dim=None, unbiased=None, keepdim=False, *, correction=None",
        redirect=redirect,
        methods=(name,),
        output=Requantize(),
        kernels=_SUMS,
        examples=(
            Example(_IMAGE, {"dim": (2, 3)}),
            Example(_IMAGE, {"dim": 1, "unbiased": False, "keepdim": True}),
            Example(_IMAGE, {"dim": -1, "correction": 0}),
            Example(_IMAGE),
        ),
        source=f"{DOCS}{name}.html",
    )


NORM = OpDef(
    name="norm",
    target=torch.norm,
    signature="input, p='fro', dim=None, keepdim=False, out=None, dtype=None",
    signatures={"norm": "input, p='fro', dim=None, keepdim=False, dtype=None"},
    methods=("norm",),
    output=Requantize(),
    kernels=_SUMS,
    examples=(
        Example(_IMAGE, {"p": 2, "dim": 1, "keepdim": True}),
        Example(_IMAGE, {"p": 1, "dim": (2, 3)}),
        Example(_IMAGE),
        Example(_IMAGE, {"p": 3, "dim": 1}, outcome="step"),
    ),
    source=DOCS + "norm.html",
)

VECTOR_NORM = OpDef(
    name="vector_norm",
    target=torch.linalg.vector_norm,
    signature="x, ord=2, dim=None, keepdim=False, *, dtype=None",
    activations=("x",),
    output=Requantize(),
    kernels=_SUMS,
    examples=(Example(_IMAGE, {"dim": 1, "keepdim": True}), Example(_IMAGE, {"ord": 1, "dim": (2, 3)})),
    source=DOCS + "linalg.vector_norm.html",
)


def _as_vector_norm(bound: Bound) -> tuple[str, Bound]:
    """``torch.linalg.norm`` is a vector norm along one dimension, and where neither order nor dimensions are given."""
    along_one = isinstance(bound["dim"], int) or (isinstance(bound["dim"], (tuple, list)) and len(bound["dim"]) == 1)
    if not along_one and bound["ord"] is not None:
        raise TypeError("linalg.norm: a matrix norm")
    order = 2 if bound["ord"] is None else bound["ord"]
    return "vector_norm", {"x": bound["A"], **bound, "ord": order}


LINALG_NORM = OpDef(
    name="linalg_norm",
    target=torch.linalg.norm,
    signature="A, ord=None, dim=None, keepdim=False, *, dtype=None",
    redirect=_as_vector_norm,
    activations=("A",),
    output=Requantize(),
    examples=(Example(_IMAGE, {"dim": 1, "keepdim": True}), Example(_IMAGE, {"ord": 1, "dim": -1}), Example(_IMAGE)),
    source=DOCS + "linalg.norm.html",
)

CUMSUM = OpDef(
    name="cumsum",
    target=torch.cumsum,
    signature="input, dim, *, dtype=None",
    methods=("cumsum", "cumsum_"),
    output=Requantize(),
    kernels=_SUMS,
    examples=(Example(_IMAGE, {"dim": 1}), Example(_IMAGE, {"dim": -1})),
    source=DOCS + "cumsum.html",
)

_PRODUCTS = FloatOnly("no integer products of many numbers")

ROWS = (
    _summary("sum"),
    _summary("mean"),
    _read_unbiased("var"),
    _read_unbiased("std"),
    NORM,
    VECTOR_NORM,
    LINALG_NORM,
    CUMSUM,
    _summary("prod", output=_PRODUCTS, examples=({"dim": 1}, {"dim": -1, "keepdim": True})),
    _summary("cumprod", "input, dim, *, dtype=None", output=_PRODUCTS, examples=({"dim": 1},)),
    _summary(
        "logsumexp",
        "input, dim, keepdim=False",
        output=FloatOnly("no integer sums of exponentials"),
        examples=({"dim": 1}, {"dim": (2, 3), "keepdim": True}),
    ),
)
