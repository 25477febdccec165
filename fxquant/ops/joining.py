"""Putting several tensors into one: joining them, or writing one into places of another."""

from __future__ import annotations

import operator
from typing import Any

import torch

from fxquant.ops import set_item
from fxquant.ops.opdef import Example, FloatOnly, Kernel, OpDef, Selects
from fxquant.ops.shape import DOCS, IMAGE

_PAIR = ((2, 3, 6, 6), (2, 3, 6, 6))
_ROWS = torch.tensor([2, 0])
_PLACES = torch.tensor([0, 3, 5]).reshape(1, 1, 1, 3).repeat(2, 4, 6, 1)
_MASK = torch.arange(2 * 4 * 6 * 6).reshape(2, 4, 6, 6) % 3 == 0

CAT = OpDef(
    name="cat",
    target=torch.cat,
    signature="tensors, dim=0",
    functions=(torch.concat, torch.concatenate),
    activations=("tensors",),
    output=Selects(),
    joins=True,
    kernels={"native": Kernel("cat", "quantized.cat")},
    examples=(Example(_PAIR, {"dim": 1}), Example((*_PAIR, (2, 3, 6, 6)), {"dim": -1}), Example(_PAIR, {})),
    source=DOCS + "cat.html",
)

STACK = OpDef(
    name="stack",
    target=torch.stack,
    signature="tensors, dim=0",
    activations=("tensors",),
    output=Selects(),
    joins=True,
    kernels={"native": Kernel("stack", "quantized.cat")},
    examples=(Example(_PAIR, {"dim": 1}), Example(_PAIR, {"dim": -1})),
    source=DOCS + "stack.html",
)


def _joined(name: str) -> dict[str, Kernel]:
    return {"native": Kernel("joined", f"aten.{name} on integers")}


def _stacks(name: str, *functions: Any) -> OpDef:
    return OpDef(
        name=name,
        target=getattr(torch, name),
        signature="tensors",
        functions=functions,
        activations=("tensors",),
        output=Selects(),
        joins=True,
        kernels=_joined(name),
        examples=(Example(_PAIR, {}),),
        source=f"{DOCS}{name}.html",
    )


STACKS = (_stacks("hstack"), _stacks("vstack", torch.row_stack), _stacks("dstack"), _stacks("column_stack"))


def _writes(name: str, signature: str, source: str, *examples: Example, **fields: Any) -> OpDef:
    """An operator that writes the numbers of ``source`` into places of ``input``."""
    return OpDef(
        name=name,
        target=getattr(torch, name),
        signature=signature,
        methods=tuple(method for method in (name, f"{name}_") if hasattr(torch.Tensor, method)),
        activations=("input", source),
        output=Selects(),
        joins=True,
        kernels=_joined(name),
        examples=examples,
        source=f"{DOCS}{name}.html",
        **fields,
    )


WRITES = (
    OpDef(
        name="set_item",
        target=set_item.set_item,
        signature="input, index, value",
        functions=(operator.setitem,),
        methods=("__setitem__",),
        activations=("input", "value"),
        output=Selects(),
        joins=True,
        kernels=_joined("index_put"),
        fills="value",
        source="https://docs.pytorch.org/docs/stable/tensor_indexing.html",
    ),
    _writes("scatter", "input, dim, index, src, *, reduce=None", "src",
            Example((*IMAGE, (2, 4, 6, 3)), {"dim": 3, "index": _PLACES}),
            Example(IMAGE, {"dim": 3, "index": _PLACES, "src": -2.5}),
            renamed={"value": "src"}, fills="src"),
    _writes("index_copy", "input, dim, index, source", "source",
            Example((*IMAGE, (2, 2, 6, 6)), {"dim": 1, "index": _ROWS})),
    _writes("index_fill", "input, dim, index, value", "value",
            Example(IMAGE, {"dim": 1, "index": _ROWS, "value": 0.0}),
            Example(IMAGE, {"dim": 1, "index": _ROWS, "value": 3}), fills="value"),
    _writes("masked_scatter", "input, mask, source", "source", Example((*IMAGE, *IMAGE), {"mask": _MASK})),
    _writes("index_put", "input, indices, values, accumulate=False", "values",
            Example((*IMAGE, (2, 6, 6)), {"indices": (_ROWS % 2, _ROWS)})),
    _writes("select_scatter", "input, src, dim, index", "src", Example((*IMAGE, (2, 6, 6)), {"dim": 1, "index": 2})),
    _writes("slice_scatter", "input, src, dim=0, start=None, end=None, step=1", "src",
            Example((*IMAGE, (2, 2, 6, 6)), {"dim": 1, "start": 1, "end": 3})),
    _writes("diagonal_scatter", "input, src, offset=0, dim1=0, dim2=1", "src",
            Example((*IMAGE, (2, 4, 6)), {"dim1": 2, "dim2": 3})),
)  # fmt: skip

SUMS = tuple(
    OpDef(
        name=name,
        target=getattr(torch, name),
        signature=signature,
        methods=(name, f"{name}_"),
        activations=("input", source),
        output=FloatOnly("numbers that meet are added, so there is no int8 kernel"),
        examples=(example,),
        source=f"{DOCS}{name}.html",
    )
    for name, signature, source, example in (
        ("scatter_add", "input, dim, index, src", "src",
         Example((*IMAGE, (2, 4, 6, 3)), {"dim": 3, "index": _PLACES})),
        ("index_add", "input, dim, index, source, *, alpha=1", "source",
         Example((*IMAGE, (2, 2, 6, 6)), {"dim": 1, "index": _ROWS})),
    )
)  # fmt: skip

ROWS = (CAT, STACK, *STACKS, *WRITES, *SUMS)
