"""Models that branch on the value of a tensor."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from case import Case, rows
from torch import Tensor, nn


class Scaled(nn.Module):
    """The layer around what fails."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)


class BranchReturns(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.gate = nn.Linear(6, 6), BranchReturns.Gate()

        def forward(self, x: Tensor) -> Tensor:
            return self.gate(self.body(x))

    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:  # finding: tensor-branch
                return x * 2
            return x - 1

    class after(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            return torch.where(x.sum() > 0, x * 2, x - 1)

    inputs = staticmethod(rows)
    outcome = "region"
    applied = True


class BranchAssigns(Case):
    class before(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            if y.max() > 1.0:  # noqa: SIM108  # finding: tensor-branch
                y = y / 2
            else:
                y = y * 2
            return self.second(y)

    class after(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            y = torch.where(y.max() > 1.0, y / 2, y * 2)
            return self.second(y)

    inputs = staticmethod(rows)
    outcome = "region"
    applied = True


class BranchWithoutElse(Case):
    class before(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.first(x))
            if not torch.isfinite(y).all():  # finding: tensor-branch
                y = torch.nan_to_num(y)
            return self.second(y)

    class after(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.first(x))
            y = torch.where(torch.logical_not(torch.isfinite(y).all()), torch.nan_to_num(y), y)
            return self.second(y)

    inputs = staticmethod(rows)
    outcome = "region"
    applied = True


class BranchOfAnds(Case):
    class before(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            if y.max() > 1 and y.min() < -1:  # finding: tensor-branch
                y += 1
            return self.second(y)

    class after(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            y = torch.where((y.max() > 1) & (y.min() < -1), y + 1, y)
            return self.second(y)

    inputs = staticmethod(rows)
    outcome = "region"
    applied = True


class BranchChain(Case):
    class before(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            if y.mean() > 1:  # finding: tensor-branch
                z = y * 0.5
            elif y.mean() < -1:  # finding: tensor-branch
                z = y * 2
            else:
                z = y
            return self.second(z)

    class after(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            z = torch.where(y.mean() > 1, y * 0.5, torch.where(y.mean() < -1, y * 2, y))
            return self.second(z)

    inputs = staticmethod(rows)
    outcome = "region"
    applied = True


class BranchInExpression(Case):
    class before(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            y = y if y.abs().max() < 1 else y.tanh()  # finding: tensor-branch
            return self.second(y)

    class after(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            y = torch.where(y.abs().max() < 1, y, y.tanh())
            return self.second(y)

    inputs = staticmethod(rows)
    outcome = "region"
    applied = True


class BranchInHelper(Case):
    class before(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            return self.second(BranchInHelper.normalise(self.first(x)))

    @staticmethod
    def normalise(x: Tensor) -> Tensor:
        largest = x.abs().max()
        if largest > 1:  # finding: tensor-branch
            x = x / largest
        return x

    class after(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            largest = y.abs().max()
            y = torch.where(largest > 1, y / largest, y)
            return self.second(y)

    inputs = staticmethod(rows)
    outcome = "region"
    applied = True


class WhileLoop(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.shrink = nn.Linear(6, 6), WhileLoop.Shrink()

        def forward(self, x: Tensor) -> Tensor:
            return self.shrink(self.body(x))

    class Shrink(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            while x.norm() > 1:  # finding: tensor-branch
                x = x * 0.5
            return x

    class after(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            for _ in range(8):
                x = torch.where(x.norm() > 1, x * 0.5, x)
            return x

    inputs = staticmethod(rows)
    outcome = "region"


class Assertion(Case):
    class before(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            assert y.abs().max() < 100, "exploded"  # finding: tensor-branch
            return self.second(y)

    class after(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            torch._assert(y.abs().max() < 100, "exploded")
            return self.second(y)

    inputs = staticmethod(rows)
    applied = True


class RaiseUnlessFinite(Case):
    class before(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            if torch.isnan(y).any():  # finding: tensor-branch
                raise ValueError("NaN")
            return self.second(y)

    class after(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            torch._assert(torch.logical_not(torch.isnan(y).any()), "NaN")
            return self.second(y)

    inputs = staticmethod(rows)
    applied = True


class Membership(Case):
    class before(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.first(x))
            if 0.0 in y:  # finding: tensor-branch
                y = y + 1
            return self.second(y)

    class after(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.first(x))
            y = torch.where((y == 0.0).any(), y + 1, y)
            return self.second(y)

    inputs = staticmethod(rows)
    outcome = "region"
    applied = True
