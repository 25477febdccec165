"""Questions about a tensor: sizes, comparisons, positions; and tensors that are made of no other one."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from fxquant.ir.meta import info
from fxquant.ops.opdef import Example, OpDef, Query
from fxquant.ops.shape import DOCS, IMAGE

_ATTRIBUTES_OF_SIZE = ("shape", "ndim", "device")


def _asks(name: str, signature: str, *examples: dict[str, Any], **fields: Any) -> OpDef:
    """One row; ``fields`` are other fields of it."""
    usual: dict[str, Any] = {
        "target": getattr(torch, name, name),
        "methods": (name,),
        "output": Query(),
        "examples": tuple(Example(IMAGE, example) for example in examples),
        "source": f"{DOCS}{'' if hasattr(torch, name) else 'Tensor.'}{name}.html",
    }
    return OpDef(name=name, signature=signature, **{**usual, **fields})


SIZES = (_asks("size", "input, dim=None"), _asks("numel", "input"), _asks("nelement", "input"))
LAYOUTS = (_asks("stride", "input, dim=None"), _asks("storage_offset", "input"), _asks("element_size", "input"))


def _compares(name: str, *functions: Any) -> OpDef:
    symbol = getattr(operator, name)
    return _asks(
        name,
        "input, other",
        {"other": 0.25},
        functions=(symbol, *functions),
        methods=(name, f"__{name}__"),
        activations=("input", "other"),
        pointwise=True,
    )


COMPARISONS = (
    _compares("eq"),
    _compares("ne", torch.not_equal),
    _compares("lt", torch.less),
    _compares("le", torch.less_equal),
    _compares("gt", torch.greater),
    _compares("ge", torch.greater_equal),
)

POSITIONS = (
    _asks("argmax", "input, dim=None, keepdim=False", {"dim": 1}, {}),
    _asks("argmin", "input, dim=None, keepdim=False", {"dim": 1, "keepdim": True}),
    _asks("argsort", "input, dim=-1, descending=False", {"dim": 1}),
    _asks("nonzero", "input, *, as_tuple=False", {}),
    _asks("count_nonzero", "input, dim=None", {"dim": 1}),
    _asks("isnan", "input", {}, pointwise=True),
    _asks("isinf", "input", {}, pointwise=True),
    _asks("isfinite", "input", {}, pointwise=True),
)

FRESH = tuple(
    _asks(name, signature, activations=(), methods=())
    for name, signature in (
        ("zeros", "*size, dtype=None, device=None, requires_grad=False"),
        ("ones", "*size, dtype=None, device=None, requires_grad=False"),
        ("empty", "*size, dtype=None, device=None, requires_grad=False"),
        ("full", "size, fill_value, *, dtype=None, device=None, requires_grad=False"),
    )
)

ROWS = (*SIZES, *LAYOUTS, *COMPARISONS, *POSITIONS, *FRESH)


def asks_for_layout(node: fx.Node) -> bool:
    """Whether a node asks how a tensor lies in memory."""
    return any(info(node).op == row.name for row in LAYOUTS)


def asks_for_size(node: fx.Node) -> bool:
    """Whether a node asks for sizes only, so that it can ask a tensor's integers as well."""
    if node.target is getattr:
        return node.args[1] in _ATTRIBUTES_OF_SIZE
    return any(info(node).op == row.name for row in SIZES)
