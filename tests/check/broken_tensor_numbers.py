"""Models that make numbers, lists and arrays of tensors."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from broken_tensor_values import Scaled
from case import Case, rows
from torch import Tensor, nn


class PythonMaximum(Case):
    class before(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            scale = max(y.std(), y.mean())  # finding: tensor-branch
            return self.second(y * scale)

    class after(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            scale = torch.maximum(y.std(), y.mean())
            return self.second(y * scale)

    inputs = staticmethod(rows)
    applied = True


class PythonMinimumOfNumber(Case):
    class before(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return self.second(y * min(y.std(), 0.5))  # finding: tensor-branch

    class after(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return self.second(y * torch.clamp(y.std(), max=0.5))

    inputs = staticmethod(rows)
    applied = True


class EqualTensors(Case):
    class before(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            if torch.equal(y, y.abs()):  # finding: tensor-branch
                y = y - 1
            return self.second(y)

    class after(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            y = torch.where((y == y.abs()).all(), y - 1, y)
            return self.second(y)

    inputs = staticmethod(rows)
    outcome = "region"
    applied = True


class FloatOfTensor(Case):
    class before(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return self.second(y - float(y.mean()))  # finding: tensor-number

    class after(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return self.second(y - y.mean())

    inputs = staticmethod(rows)
    applied = True


class Item(Case):
    class before(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            largest = y.abs().max().item()  # finding: tensor-number
            return self.second(y / largest)

    class after(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            largest = y.abs().max()
            return self.second(y / largest)

    inputs = staticmethod(rows)
    applied = True


class MathOfTensor(Case):
    class before(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return self.second(y / math.sqrt(y.var() + 1))  # finding: tensor-number

    class after(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return self.second(y / torch.sqrt(y.var() + 1))

    inputs = staticmethod(rows)
    applied = True


class LengthFromTensor(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.cut = nn.Linear(6, 6), LengthFromTensor.Cut()

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            return self.cut(self.embed(x), lengths)

    class Cut(nn.Module):
        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            longest = int(lengths.max())  # finding: tensor-number
            return x[:, :longest].sum(1)

    class after(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(6, 6)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            x = self.embed(x)
            inside = torch.arange(x.shape[1]) < lengths.max()
            return torch.where(inside[:, None], x, 0.0).sum(1)

    inputs = staticmethod(lambda: (torch.randn(2, 5, 6), torch.tensor([3, 4])))


class ListIndexedByTensor(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.choose = nn.Linear(6, 6), ListIndexedByTensor.Choose()

        def forward(self, x: Tensor) -> Tensor:
            return self.choose(self.first(x))

    class Choose(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return [x, x * 2, x * 3][x.sum(1).argmax() % 3]  # finding: tensor-number

    class after(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return torch.stack((x, x * 2, x * 3))[x.sum(1).argmax() % 3]

    inputs = staticmethod(rows)
    outcome = "region"
    applied = True


class TensorToList(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.total = nn.Linear(6, 6), TensorToList.Total()

        def forward(self, x: Tensor) -> Tensor:
            return self.total(self.first(x))

    class Total(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            means = x.mean(1).tolist()  # finding: tensor-number
            return x + sum(means)  # finding: length

    class after(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return x + x.mean(1).sum()

    inputs = staticmethod(rows)
    same = False  # the sum of Python numbers rounds differently
    outcome = "region"


class Numpy(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.root = nn.Linear(6, 6), Numpy.Root()

        def forward(self, x: Tensor) -> Tensor:
            return self.root(self.first(x))

    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(np.sqrt(x.abs().detach().numpy()))  # finding: tensor-numpy, factory

    class after(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.sqrt(self.first(x).abs())

    inputs = staticmethod(rows)


class BooleanMask(Case):
    class before(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            chosen = y[y > 0]  # finding: tensor-shape
            return self.second(y) + chosen.mean()

    inputs = staticmethod(rows)


class NonZero(Case):
    class before(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            count = torch.nonzero(y > 0)  # finding: tensor-shape
            return self.second(y) + count.float().mean()

    inputs = staticmethod(rows)


class RouteByValue(Case):
    """Experts chosen by the input: the router stays, what it decides stays float."""

    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.routed, self.head = nn.Linear(6, 6), RouteByValue.Routed(), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.routed(self.stem(x)))

    class Routed(nn.Module):
        experts: ClassVar[int] = 2

        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(nn.Linear(6, 6) for _ in range(self.experts))

        def forward(self, x: Tensor) -> Tensor:
            index = x.mean(0).argmax() % self.experts
            return self.parts[index](x)  # finding: tensor-number

    class after(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
            self.parts = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(torch.where(x.mean(0).argmax() % 2 == 0, self.parts[0](x), self.parts[1](x)))

    inputs = staticmethod(rows)
    outcome = "region"
    same = False
