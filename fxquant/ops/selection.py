"""Taking some of the numbers: by index, by mask, by rank."""

from __future__ import annotations

import operator
from typing import Any

import torch

from fxquant.ops.opdef import Example, Kernel, Moves, OpDef, Selects
from fxquant.ops.shape import IMAGE, ON_INTEGERS, SAME_FUNCTION, moves

_ROWS_0_2 = torch.tensor([0, 2, 2])
_PLACES = torch.tensor([[[[5, 0, 3]]], [[[1, 1, 4]]]])  # [2, 1, 1, 3]
_MASK = torch.arange(2 * 4 * 6 * 6).reshape(2, 4, 6, 6) % 3 == 0
_ALL = slice(None)

GETITEM = OpDef(
    name="getitem",
    target=operator.getitem,
    signature="input, index",
    methods=("__getitem__",),
    output=Moves(),
    kernels={"native": Kernel("getitem", "operator.getitem")},
    examples=tuple(
        Example(IMAGE, {"index": index})
        for index in (
            (_ALL, slice(0, 2)), (_ALL, 1), (Ellipsis, slice(None, None, 2)), (_ALL, None, Ellipsis, slice(-2, None)),
            _ROWS_0_2[:2] % 2, (_ALL, _ROWS_0_2), (_ALL, [0, 2]), (_ALL, _ROWS_0_2, 1, _ROWS_0_2), _MASK,
            (Ellipsis, torch.tensor([True, False, True, True, False, True])),
        )
    ),
    source="https://docs.pytorch.org/docs/stable/tensor_indexing.html",
)  # fmt: skip

BY_INDEX = (
    moves("index_select", "input, dim, index", {"dim": 1, "index": _ROWS_0_2}),
    moves("gather", "input, dim, index, *, sparse_grad=False",
          {"dim": 3, "index": _PLACES.expand(2, 4, 6, 3).contiguous()}, kernels=ON_INTEGERS),
    moves("take_along_dim", "input, indices, dim=None", {"indices": _PLACES, "dim": 3}, kernels=ON_INTEGERS),
    moves("take", "input, index", {"index": torch.tensor([[0, 5, 7], [9, 100, 33]])}, kernels=ON_INTEGERS),
    moves("masked_select", "input, mask", {"mask": _MASK}, kernels=ON_INTEGERS),
)  # fmt: skip


def _ranks(name: str, signature: str, *examples: dict[str, Any], **fields: Any) -> OpDef:
    """An operator that picks numbers by their order, which integers have too."""
    return moves(name, signature, *examples, **{"output": Selects(), "kernels": ON_INTEGERS, **fields})


BY_RANK = (
    _ranks("sort", "input, dim=-1, descending=False, *, stable=None", {}, {"dim": 1, "descending": True},
           {"stable": True}, kernels=SAME_FUNCTION),
    _ranks("msort", "input", {}, kernels=SAME_FUNCTION),
    _ranks("topk", "input, k, dim=-1, largest=True, sorted=True", {"k": 3}, {"k": 2, "dim": 1, "largest": False},
           kernels=SAME_FUNCTION),
    _ranks("kthvalue", "input, k, dim=-1, keepdim=False", {"k": 2}, {"k": 2, "dim": 1, "keepdim": True}),
    _ranks("cummax", "input, dim", {"dim": 1}),
    _ranks("cummin", "input, dim", {"dim": -1}),
    _ranks("aminmax", "input, *, dim=None, keepdim=False", {"dim": 1}, {"dim": -1, "keepdim": True}),
    _ranks("median", "input, dim=None, keepdim=False", {"dim": 1}, {"dim": -1, "keepdim": True}, {}),
)  # fmt: skip

ROWS = (GETITEM, *BY_INDEX, *BY_RANK)
