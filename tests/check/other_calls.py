"""Other spellings: calls and sizes."""

from __future__ import annotations

import functools
import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from case import Case, image, rows
from torch import Tensor, nn


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)


class HeadChosen(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.heads = nn.ModuleList([nn.Linear(6, 2), nn.Linear(6, 2)])

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            head = self.heads[int(y.mean() > 0)]  # finding: tensor-number
            return head(y)

    inputs = staticmethod(rows)
    outcome = "region"


class FunctionChosen(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            act = random.choice([F.relu, F.gelu])  # finding: python-random
            return act(y)

    inputs = staticmethod(rows)
    outcome = "region"


class FunctionChosenByValue(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            act = F.relu if y.mean() > 0 else F.gelu  # finding: tensor-branch
            return act(y)

    inputs = staticmethod(rows)
    outcome = "region"


class StringByValue(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            mode = "up" if y.mean() > 0 else "down"  # finding: tensor-branch
            if mode == "up":  # finding: tensor-branch
                return y * 2
            return y / 2

    inputs = staticmethod(rows)
    outcome = "region"


class ZerosConstantBatch(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            h = torch.zeros(4, 6)
            return torch.cat([y, h], 1)

    inputs = staticmethod(rows)


class NumpyMath(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            k = int(np.ceil(x.shape[-1] / 2))  # finding: tensor-numpy
            return F.adaptive_avg_pool2d(y, k)

    inputs = staticmethod(image)


class PositionsByLength(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.pos = nn.Parameter(torch.randn(32, 6))

        def forward(self, x: Tensor) -> Any:
            n = x.shape[1]
            if n > self.pos.shape[0]:
                raise ValueError(f"too long: {n}")
            return self.first(x) + self.pos[:n]

    inputs = staticmethod(lambda: (torch.randn(2, 5, 6),))


class CausalMaskCached(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.mask = None

        def forward(self, x: Tensor) -> Any:
            n = x.shape[1]
            if self.mask is None or self.mask.shape[0] != n:
                self.mask = torch.triu(torch.full((n, n), float("-inf")), 1)  # finding: attribute-update
            y = self.first(x)
            return torch.softmax(y @ y.transpose(1, 2) + self.mask, -1) @ y

    inputs = staticmethod(lambda: (torch.randn(2, 5, 6),))


@functools.cache
def table(n: Any) -> Any:
    return torch.arange(n).float()


class CachedMethods(Case):
    """Static and class methods with a cache, which must not keep what a trace computes."""

    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)

        @staticmethod
        @functools.cache
        def table(n: Any) -> Any:
            return torch.arange(n).float()

        @classmethod
        @functools.cache
        def shift(cls, n: Any) -> Any:
            return torch.full((n, 1), 0.5)

        def forward(self, x: Tensor) -> Any:
            n = x.shape[1]
            return self.first(x) + self.table(n)[:, None] + self.shift(n)

    inputs = staticmethod(lambda: (torch.randn(2, 5, 6),))


class LruCached(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Any:
            return self.first(x) + table(x.shape[1])[:, None]

    inputs = staticmethod(lambda: (torch.randn(2, 5, 6),))
