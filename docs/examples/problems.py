"""Models for docs/checking.md: one with problems, the same without, and one that is right for one size only."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Binary(torch.autograd.Function):
    """The sign forward, the gradient as it is backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Gate(nn.Module):
    """Halves what is loud."""

    def forward(self, x: Tensor) -> Tensor:
        if x.abs().mean() > 0.5:
            x = x * 0.5
        return x


class Classifier(nn.Module):
    """A small network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.gate = Gate()
        self.body = nn.Conv2d(16, 32, 3, padding=1)
        self.head = nn.Linear(32 + 2, 10)
        self.register_buffer("mean", torch.zeros(32))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.gate(torch.relu(self.stem(x)))
        x = torch.relu(self.body(x)).mean((2, 3))
        with torch.no_grad():
            self.mean.lerp_(x.mean(0), 0.1)
        x = F.dropout(x - self.mean, 0.2)
        x = torch.cat([Binary.apply(x), torch.zeros(x.shape[0], 2)], 1)
        return self.head(x)


class Fixed(nn.Module):
    """The same, written so that every tracer takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 32, 3, padding=1)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(32 + 2, 10)
        self.register_buffer("mean", torch.zeros(32))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.where(x.abs().mean() > 0.5, x * 0.5, x)
        x = torch.relu(self.body(x)).mean((2, 3))
        x = self.drop(x - self.mean)
        x = x + (x.sign() - x).detach()
        return self.head(torch.cat([x, torch.zeros((x.shape[0], 2))], 1))


class Refused(nn.Module):
    """A graph of this is for one batch size only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.heads = nn.ModuleList([nn.Linear(8, 4), nn.Linear(8, 4)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).mean((2, 3))
        return torch.stack([self.heads[row % 2](x[row]) for row in range(x.shape[0])])


def example() -> Tensor:
    """Two images."""
    return torch.randn(2, 3, 16, 16)
