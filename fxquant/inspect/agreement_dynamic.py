"""How far a kernel with floats on both sides is from the reference, given the same floats.

There is no output scale to count in, so both results are rounded to 255 steps over the reference's own range.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxquant.inspect.reference_arithmetic import ReferenceArithmetic
from fxquant.ir.meta import ARRIVING, info
from fxquant.numerics.affine import quantize
from fxquant.numerics.dynamic import choose_dynamic_qparams


def rounded_results(node: fx.Node, name: str, arithmetic: ReferenceArithmetic) -> tuple[Tensor, Tensor] | None:
    """The reference's result and the kernel's as integers, float tensors in them one after another.

    Args:
        node: what makes the unit's value in the reference graph.
        name: of the value, in the run.
        arithmetic: of the run.

    Returns:
        uint8 [elements] of each, of different length where the shapes differ; None where the run lacks the value.
    """
    if name not in arithmetic.given.floats:
        return None
    expected = _tensors(arithmetic.float_value(node))
    actual = _tensors(arithmetic.given.floats[name])
    if [item.shape for item in expected] != [item.shape for item in actual]:
        return torch.zeros(1, dtype=torch.uint8), torch.zeros(0, dtype=torch.uint8)
    pairs = [_rounded(one, other) for one, other in zip(expected, actual, strict=True)]
    first, second = zip(*pairs, strict=True)
    return torch.cat(first), torch.cat(second)


# Levels this near to half-way between two integers may round either way: kernels add the zero point before they round,
# or after.
_TIE = 1e-4
# Of a step: results nearer than this differ by the order of a sum in float32, though they may round apart.
_ALIKE = 1e-3


def reads_ties(node: fx.Node, name: str, arithmetic: ReferenceArithmetic) -> bool:
    """Whether a number that a unit rounds as it arrives lies half-way between two integers.

    Such numbers are common where the input was on a grid before.

    Args:
        node: what makes the unit's value in the reference graph.
        name: of the unit.
        arithmetic: of the run.
    """
    return any(_has_ties(x) for source in _arriving(node, name) for x in _tensors(arithmetic.value(source)))


def _arriving(node: fx.Node, name: str) -> Iterator[fx.Node]:
    """What is rounded as it arrives at a unit."""
    for source in node.all_input_nodes:
        if info(source).role == ARRIVING:
            while info(source).role == ARRIVING:
                source = source.all_input_nodes[0]
            yield source
        elif info(source).unit == name:
            yield from _arriving(source, name)
        elif node.op == "call_module":  # a recurrent layer, which rounds inside
            yield source


def _has_ties(x: Tensor) -> bool:
    scale, _ = choose_dynamic_qparams(x, 0, 255)
    level = x.to(torch.float64) / scale.to(torch.float64)
    return bool(((level - level.floor() - 0.5).abs() < _TIE).any())


def _tensors(value: Any) -> list[Tensor]:
    leaves = [value] if isinstance(value, Tensor) else pytree.tree_leaves(value)
    return [item for item in leaves if isinstance(item, Tensor) and item.is_floating_point()]


def _rounded(expected: Tensor, actual: Tensor) -> tuple[Tensor, Tensor]:
    scale, zero_point = choose_dynamic_qparams(expected, 0, 255)
    one, other = (quantize(item.flatten(), scale, zero_point, 0, 255, torch.uint8) for item in (expected, actual))
    alike = (actual - expected).abs().flatten() <= _ALIKE * scale
    return one, torch.where(alike, one, other)
