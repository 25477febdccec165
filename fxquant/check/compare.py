"""Comparing what two models return, whatever containers it is in."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

# Differences up to this many units in the last place of the largest value come from another order of summation.
_ROUNDING_UNITS = 64


class Outcome(StrEnum):
    """How a graph compares with eager on one probe."""

    EXACT = "exact"  # bit for bit
    ROUNDING = "rounding"  # the same but for the order of floating-point operations
    DIFFERS = "differs"  # silently wrong
    REFUSED = "refused"  # the graph raises a message of fxquant's: a guard did not hold
    FAILS = "fails"  # the graph raises something else
    SKIPPED = "skipped"  # eager itself does not run, or the graph does not exist

    @property
    def holds(self) -> bool:
        """Whether the graph computed what eager does."""
        return self in (Outcome.EXACT, Outcome.ROUNDING)


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        outcome: how they compare.
        detail: where and how much they differ, "" for exact ones.
    """

    outcome: Outcome
    detail: str = ""


def compare(eager: Any, graph: Any) -> Comparison:
    """Compare two results leaf by leaf.

    Args:
        eager: what the user's model returned.
        graph: what the graph returned.
    """
    worst = Comparison(Outcome.EXACT)
    first, second = dict(leaves(eager)), dict(leaves(graph))
    if first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())
        return Comparison(Outcome.DIFFERS, f"eager returns {len(first)} values, the graph {len(second)}: {odd[0]}")
    for path, expected in first.items():
        found = _compare_leaf(path, expected, second[path])
        if found.outcome is Outcome.DIFFERS:
            return found
        worst = found if found.outcome is Outcome.ROUNDING else worst
    return worst


def leaves(value: Any, path: str = "output", depth: int = 12) -> list[tuple[str, Any]]:
    """Tensors and plain values in nested containers, named tuples, dataclasses and plain objects, with their paths."""
    if value is None or depth == 0:
        return []
    if isinstance(value, (Tensor, bool, int, float, complex, str)):
        return [(path, value)]
    if isinstance(value, (dict, tuple, list)):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        found = [leaf for key, item in entries for leaf in leaves(item, f"{path}[{key!r}]", depth - 1)]
        attributes = {} if dataclasses.is_dataclass(value) else getattr(value, "__dict__", {})
        return found + [leaf for name, item in attributes.items() for leaf in leaves(item, f"{path}.{name}", depth - 1)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return [leaf for name in names for leaf in leaves(getattr(value, name), f"{path}.{name}", depth - 1)]
    attributes = getattr(value, "__dict__", {})
    return [leaf for name, item in attributes.items() for leaf in leaves(item, f"{path}.{name}", depth - 1)]


def _compare_leaf(path: str, expected: Any, found: Any) -> Comparison:
    if not isinstance(expected, Tensor) or not isinstance(found, Tensor):
        if isinstance(expected, Tensor) or isinstance(found, Tensor):
            return Comparison(Outcome.DIFFERS, f"{path} is a {_name(expected)} in eager, a {_name(found)} in the graph")
        same = expected == found or (expected != expected and found != found)
        return Comparison(Outcome.EXACT) if same else Comparison(Outcome.DIFFERS, f"{path}: {expected!r}, {found!r}")
    if expected.shape != found.shape:
        shapes = f"{tuple(expected.shape)} in eager, {tuple(found.shape)} in the graph"
        return Comparison(Outcome.DIFFERS, f"{path} has shape {shapes}")
    if expected.dtype != found.dtype:
        return Comparison(Outcome.DIFFERS, f"{path} is {expected.dtype} in eager, {found.dtype} in the graph")
    return _compare_values(path, expected.detach(), found.detach())


def _compare_values(path: str, expected: Tensor, found: Tensor) -> Comparison:
    if expected.layout != torch.strided or expected.is_quantized:
        expected, found = expected.to_dense(), found.to_dense()
    if torch.equal(expected, found) or expected.numel() == 0:
        return Comparison(Outcome.EXACT)
    if not (expected.is_floating_point() or expected.is_complex()):
        return Comparison(Outcome.DIFFERS, f"{path} differs in {int((expected != found).sum())} elements")
    wide = torch.complex128 if expected.is_complex() else torch.float64
    first, second = expected.to(wide), found.to(wide)
    same = (first == second) | (first.isnan() & second.isnan())
    if bool(same.all()):
        return Comparison(Outcome.EXACT)
    difference = float((first - second)[~same].abs().nan_to_num(nan=math.inf).max())
    finite = first.abs()[first.isfinite()]
    largest = float(finite.max()) if finite.numel() else 0.0
    text = f"{path} differs by up to {difference:.2g}, largest value {largest:.2g}"
    limit = _ROUNDING_UNITS * torch.finfo(expected.dtype).eps * largest
    return Comparison(Outcome.ROUNDING if difference <= limit else Outcome.DIFFERS, text)


def _name(value: Any) -> str:
    return type(value).__name__
