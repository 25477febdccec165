"""Other spellings whose fix is a change of one statement."""

from __future__ import annotations

from typing import Any

import torch
from case import Case, rows
from other_calls import Layer
from torch import Tensor, nn


def routed() -> tuple[Tensor, Tensor]:
    """Feature vectors, and the number of a part."""
    return torch.randn(4, 6), torch.tensor(1)


class AnyOfParts(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            if any(part.sum() > 1e6 for part in y.split(2, 1)):  # finding: tensor-branch
                y = torch.zeros_like(y)
            return y

    inputs = staticmethod(rows)
    outcome = "region"
    applied = True


class RoundedMean(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return y * round(float(y.mean()), 2)  # finding: tensor-number

    inputs = staticmethod(rows)
    applied = True


class HeadByNumber(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleList(nn.Linear(6, 3) for _ in range(3))

        def forward(self, x: Tensor, which: Tensor) -> Any:
            return self.heads[which](x)  # finding: tensor-number

    inputs = staticmethod(routed)
    outcome = "region"
    applied = True


class HeadOfLocalList(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor, which: Tensor) -> Any:
            heads = [self.left, self.right]
            return heads[which](x)  # finding: tensor-number

    inputs = staticmethod(routed)
    outcome = "region"
    applied = True


class NumberByNumber(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.scales = [1.0, 0.5, 0.25]

        def forward(self, x: Tensor, which: Tensor) -> Any:
            return self.first(x) * self.scales[which]  # finding: tensor-number

    inputs = staticmethod(routed)
    outcome = "region"
    applied = True


class TupleInDict(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = {"act": nn.ReLU(), "projections": (nn.Linear(6, 6),)}

        def forward(self, x: Tensor) -> Any:
            return self.parts["act"](self.parts["projections"][0](x))  # type: ignore[index] # finding: module-in-container

    inputs = staticmethod(rows)
    applied = True
    same = False  # the weights in the dict are in no state_dict


class StarredList(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            parts = self.first(x).split(3, 1)
            return torch.cat([*parts, x], 1)  # finding: unpacking

    inputs = staticmethod(rows)
    applied = True


class ItemDecides(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            if y.max().item() > 0.5:  # finding: tensor-number
                return y * 2
            return y

    inputs = staticmethod(rows)
    outcome = "region"
    applied = True


class SmallerOfNumbers(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return y * min(1.0, y.max().item() / 3)  # finding: tensor-number

    inputs = staticmethod(rows)
    applied = True
