"""Models with parts that no graph can hold, in a module that tests hide or show to other processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """Doubles inputs whose sum is positive."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, ...] float32 to the same shape."""
        if x.sum() > 0:
            x = x * 2
        return x


class Gated(nn.Module):
    """A convolution, a branch on values, a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.second = nn.Conv2d(3, 4, 3), Gate(), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 3, H, W] to [N, 2, H-2, W-2] float32."""
        return self.second(self.gate(self.first(x)))


class Odd(nn.Module):
    """A leaf: its forward cannot be traced, and it is of the user's class."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((4, 1, 1), 0.5))
        self.names = {"kind": ("odd", 1)}

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 4, H, W] to the same shape."""
        return x * self.weight


@dataclass
class Output:
    """What ``WithOutput`` returns."""

    features: Tensor
    scores: Tensor | None = None


class WithOutput(nn.Module):
    """Returns an object of a class of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Output:
        """Map [N, 3, H, W] to features [N, 4, H-2, W-2]."""
        return Output(features=torch.relu(self.conv(x)))


class WithLeaf(nn.Module):
    """A convolution and a leaf."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.odd = nn.Conv2d(3, 4, 3), Odd()

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 3, H, W] to [N, 4, H-2, W-2] float32."""
        return self.odd(self.conv(x))


def seeded(kind: type[nn.Module]) -> nn.Module:
    """An instance with fixed weights, in eval mode."""
    torch.manual_seed(0)
    return kind().eval()


def image(seed: int = 0) -> Tensor:
    """[2, 3, 8, 8] float32."""
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
