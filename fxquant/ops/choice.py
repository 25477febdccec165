"""Choosing among numbers: the larger, the smaller, by a condition; and the logic of conditions."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxquant.ops.opdef import Bound, Example, Kernel, OpDef, Query, Selects
from fxquant.ops.pointwise import DOCS, functions_called, methods_called

_IMAGE = (2, 3, 6, 6)
_PAIR = (Example((_IMAGE, _IMAGE)), Example((_IMAGE, (1, 3, 1, 1))))
_CHOICE = {"native": Kernel("choice", "choice on integers")}
_MASK = torch.arange(2 * 3 * 36).reshape(2, 3, 6, 6) % 3 == 0
_MAP = torch.linspace(-1.0, 1.0, 36).reshape(6, 6)


def _choice(name: str) -> OpDef:
    """The larger or smaller of two numbers."""
    return OpDef(
        name=name,
        target=getattr(torch, name),
        signature="input, other",
        functions=functions_called(name),
        methods=methods_called(name),
        activations=("input", "other"),
        output=Selects(),
        pointwise=True,
        kernels=_CHOICE,
        examples=(*_PAIR, Example((_IMAGE,), {"other": torch.tensor(0.5)}), Example((_IMAGE,), {"other": _MAP})),
        source=f"{DOCS}{name}.html",
    )


def _extreme(name: str) -> OpDef:
    """``torch.max`` and ``torch.min``: of everything, over a dimension with positions, or of two tensors."""

    def redirect(bound: Bound) -> tuple[str, Bound]:
        other = bound["dim"] if _is_tensor(bound["dim"]) else bound["other"]
        if other is not None:
            return f"{name}imum", {"input": bound["input"], "other": other}
        return name, bound

    return OpDef(
        name=name,
        target=getattr(torch, name),
        signature="input, dim=None, keepdim=False, *, other=None",
        redirect=redirect,
        methods=(name,),
        output=Selects(),
        kernels={"native": Kernel("on_integers", f"aten.{name} on integers")},
        examples=(
            Example((_IMAGE,)),
            Example((_IMAGE,), {"dim": 1}),
            Example((_IMAGE,), {"dim": -1, "keepdim": True}),
        ),
        source=f"{DOCS}{name}.html",
    )


def _is_tensor(value: object) -> bool:
    return isinstance(value, (fx.Node, torch.Tensor))


def _extreme_over_dims(name: str) -> OpDef:
    return OpDef(
        name=name,
        target=getattr(torch, name),
        signature="input, dim=(), keepdim=False",
        methods=(name,),
        output=Selects(),
        kernels={"native": Kernel("on_integers", f"aten.{name} on integers")},
        examples=(
            Example((_IMAGE,), {"dim": (2, 3)}),
            Example((_IMAGE,), {"dim": 1, "keepdim": True}),
        ),
        source=f"{DOCS}{name}.html",
    )


WHERE = OpDef(
    name="where",
    target=torch.where,
    signature="condition, input, other",
    signatures={"where": "input, condition, other"},
    methods=("where",),
    activations=("input", "other"),
    output=Selects(),
    pointwise=True,
    kernels=_CHOICE,
    examples=(
        Example((_IMAGE, _IMAGE), {"condition": _MASK}),
        Example((_IMAGE, (1, 3, 1, 1)), {"condition": _MASK}),
        Example((_IMAGE,), {"condition": _MASK, "other": 0.0}),
        Example((_IMAGE,), {"condition": _MASK, "other": -2.5}),
        Example((_IMAGE,), {"condition": _MASK, "other": _MAP}),
    ),
    source=DOCS + "where.html",
)

MASKED_FILL = OpDef(
    name="masked_fill",
    target=torch.masked_fill,
    signature="input, mask, value",
    methods=methods_called("masked_fill"),
    output=Selects(),
    pointwise=True,
    kernels=_CHOICE,
    examples=(
        Example((_IMAGE,), {"mask": _MASK, "value": 0.0}),
        Example((_IMAGE,), {"mask": _MASK, "value": 3.0}),
        Example((_IMAGE,), {"mask": _MASK, "value": torch.tensor(0.5)}),
    ),
    source=DOCS + "Tensor.masked_fill.html",
)


def _logic(name: str, signature: str, *aliases: str, **more: Any) -> OpDef:
    """A row whose result is no activation; in-place forms, whose result is one, are left out."""
    return OpDef(
        name=name,
        target=getattr(torch, name),
        signature=signature,
        functions=functions_called(name, *aliases),
        methods=tuple(m for m in methods_called(name, *aliases) if m.startswith("__") or not m.endswith("_")),
        activations=more.pop("activations", ("input",)),
        output=Query(),
        pointwise=True,
        source=f"{DOCS}{name}.html",
        **more,
    )


_TWO: dict[str, Any] = {"activations": ("input", "other")}

LOGIC = (
    _logic("logical_not", "input", examples=(Example((_IMAGE,)),)),
    _logic("logical_and", "input, other", examples=_PAIR, **_TWO),
    _logic("logical_or", "input, other", examples=_PAIR, **_TWO),
    _logic("logical_xor", "input, other", examples=_PAIR, **_TWO),
    _logic("bitwise_not", "input", "invert"),
    _logic("bitwise_and", "input, other", "and_", **_TWO),
    _logic("bitwise_or", "input, other", "or_", **_TWO),
    _logic("bitwise_xor", "input, other", "xor", **_TWO),
    _logic("signbit", "input", examples=(Example((_IMAGE,)),)),
)

ROWS = (
    *(_choice(name) for name in ("maximum", "minimum", "fmax", "fmin")),
    *(_extreme(name) for name in ("max", "min")),
    *(_extreme_over_dims(name) for name in ("amax", "amin")),
    WHERE,
    MASKED_FILL,
    *LOGIC,
)
