"""A way of failing as a pair of models: before and after the fix that the report names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

_MARK = re.compile(r"#\s*finding:\s*([a-z-]+(?:\s*,\s*[a-z-]+)*)")


def image() -> tuple[Tensor, ...]:
    """A batch of small images."""
    return (torch.randn(2, 3, 8, 8),)


def rows() -> tuple[Tensor, ...]:
    """A batch of feature vectors."""
    return (torch.randn(4, 6),)


class Case:
    """One way of failing. Lines of ``Before`` that end in ``# finding: kind`` are those that a report must name.

    Attributes:
        before: the model, as someone would write it; a class or a function that makes it.
        after: the same after the fix, None where no change is called for.
        inputs: makes the example inputs.
        outcome: ``whole``: captured with nothing kept in float; ``region``: with a float region; ``limited``: right for
            inputs like the example only, and said so; ``refused``: there is no graph.
        applied: whether the finding carries an edit of the source, which is applied and checked too.
        same: whether before and after compute the same on the example.
        training: whether the model is checked in training mode.
        of_model: kinds that a report must name and that belong to no line.
    """

    before: ClassVar[Callable[[], nn.Module]]
    after: ClassVar[Callable[[], nn.Module] | None] = None
    inputs: ClassVar[Callable[[], Any]] = staticmethod(image)
    outcome: ClassVar[str] = "whole"
    applied: ClassVar[bool] = False
    same: ClassVar[bool] = True
    training: ClassVar[bool] = False
    of_model: ClassVar[tuple[str, ...]] = ()


def all_cases() -> list[type[Case]]:
    """Every case that was imported."""
    return list(Case.__subclasses__())


def expected(case: type[Case]) -> set[tuple[str, int]]:
    """(kind, line) of the findings that a case must have, from the comments in its source."""
    lines, first = inspect.getsourcelines(case)
    found = set()
    for number, text in enumerate(lines, first):
        mark = _MARK.search(text)
        for kind in mark.group(1).split(",") if mark is not None else ():
            found.add((kind.strip(), number))
    return found
