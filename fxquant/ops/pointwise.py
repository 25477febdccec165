"""Operators that treat every number alone: all their spellings, and where their constants lie."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.ops.opdef import Example, Kernel, OpDef, Output, Requantize

IMAGE = (Example(((2, 3, 6, 6),)),)
LOOKUP = {"native": Kernel("lookup", "table of 256")}
PAIRS = {"native": Kernel("lookup_pairs", "table of 65,536")}
DOCS = "https://docs.pytorch.org/docs/stable/generated/torch."


def functions_called(*names: str) -> tuple[Callable[..., Any], ...]:
    """Every function of these names in torch, in place ones included: ``torch.exp``, ``torch.special.expm1``."""
    found = []
    for name in names:
        for place in (torch, F, torch.special):
            found += [getattr(place, form) for form in (name, f"{name}_") if callable(getattr(place, form, None))]
        if callable(getattr(operator, name, None)):
            found.append(getattr(operator, name))
    return tuple(dict.fromkeys(found))


def methods_called(*names: str) -> tuple[str, ...]:
    """Every tensor method of these names: ``exp``, ``exp_``, ``__abs__`` where Python has such an operator."""
    forms = [form for name in names for form in (name, f"{name}_")]
    forms += [f"__{name}__" for name in names if hasattr(operator, name)]
    return tuple(form for form in dict.fromkeys(forms) if callable(getattr(Tensor, form, None)))


def pointwise(
    name: str,
    signature: str = "input",
    *,
    aliases: tuple[str, ...] = (),
    output: Output | None = None,
    examples: tuple[Example, ...] = IMAGE,
    **more: Any,
) -> OpDef:
    """A row for a function of one number.

    Args:
        name: of the function in torch or torch.nn.functional, the catalogue's name too.
        signature: as in ``OpDef``.
        aliases: other names torch has for it.
        output: by default a range of its own.
        examples: calls that become tests.
        more: further fields of the row.
    """
    in_functional = hasattr(F, name) and (not hasattr(torch, name) or "inplace" in signature)
    target = getattr(F if in_functional else torch, name)
    return OpDef(
        name=name,
        target=target,
        signature=signature,
        functions=functions_called(name, *aliases),
        methods=methods_called(name, *aliases),
        output=output or Requantize(),
        pointwise=True,
        kernels=LOOKUP,
        examples=examples,
        source=f"{DOCS}{'nn.functional.' if in_functional else ''}{name}.html",
        **more,
    )


def axes_of(row: OpDef, rank: int, constant: tuple[int, ...]) -> set[int]:
    """The axes of an output along which a constant operand varies: none for a single number.

    Args:
        row: the operator's row.
        rank: number of the output's dimensions.
        constant: shape of the constant.
    """
    if row.channel_axis is not None:
        return {row.channel_axis} if any(size > 1 for size in constant) else set()
    return {rank - len(constant) + axis for axis, size in enumerate(constant) if size > 1}
