"""Small networks that between them hold what is trained quantized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A network and its input.

    Attributes:
        build: makes the network.
        inputs: makes positional inputs.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]


class Residual(nn.Module):
    """Convolutions with batch norms, a sum, and a linear."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
        self.head = nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.body(x))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class Functionals(nn.Module):
    """Weights and batch norm by hand, dropout that follows the mode, parts of two ranges joined."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 3, 3, 3) * 0.2), nn.Parameter(torch.randn(8))
        self.norm, self.offset = nn.BatchNorm2d(8), nn.Parameter(torch.randn(8, 1, 1))
        self.out = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm
        y = F.conv2d(x, self.weight, self.bias, padding=1)
        y = F.batch_norm(y, n.running_mean, n.running_var, n.weight, n.bias, self.training)
        y = F.hardswish(y)
        z = torch.cat([y + self.offset, 4 * torch.sigmoid(y)], 1)
        z = F.dropout(F.max_pool2d(z, 2), 0.5, self.training)
        return F.linear(z.mean((2, 3)), self.out.weight, self.out.bias)


class Attends(nn.Module):
    """Multi-head attention with weights, then its parts divided."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True)
        self.project = nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.attention(x, x, x)
        a, b, c = self.project(y).chunk(3, dim=-1)
        return a * torch.sigmoid(b) + c


class Words(nn.Module):
    """An embedding, layer norm and linears."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(20, 8), nn.LayerNorm(8)
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.second(F.gelu(self.first(self.norm(self.words(tokens)))))


class Image(nn.Module):
    """Transposed and grouped convolutions, group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.SiLU())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6())
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 6, 2, 2, groups=2), nn.BatchNorm2d(6), nn.LeakyReLU(0.1))
        self.out = nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.up(self.depthwise(self.down(x))))


class Resized(nn.Module):
    """An uneven padding, parts multiplied, an average, a clip off the grid, and bilinear resizing in one range."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.second(self.first(F.pad(x, (0, 1, 0, 1)))).split(4, 1)
        y = F.avg_pool2d(a * b, 2).clamp(-0.5, 0.7)
        return F.interpolate(y, scale_factor=2.0, mode="bilinear") + 1.5


def _lines() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.ELU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(6 * 10, 8),
        nn.BatchNorm1d(8), nn.Hardtanh(-0.7, 1.3), nn.Linear(8, 2), nn.Tanh(),
    )  # fmt: skip


def _volume() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.AvgPool3d(2), nn.Flatten(), nn.Linear(32, 3)
    )


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


CASES = {
    "residual": Case(Residual, lambda: (torch.randn(8, 3, 8, 8),)),
    "functionals": Case(Functionals, lambda: (torch.randn(8, 3, 8, 8),)),
    "attention": Case(Attends, lambda: (torch.randn(4, 6, 8),)),
    "encoder": Case(_encoder, lambda: (torch.randn(4, 6, 16),)),
    "words": Case(Words, lambda: (torch.randint(0, 20, (4, 7)),)),
    "image": Case(Image, lambda: (torch.randn(4, 3, 8, 8),)),
    "resized": Case(Resized, lambda: (torch.randn(4, 3, 9, 9),)),
    "lines": Case(_lines, lambda: (torch.randn(8, 3, 12),)),
    "volume": Case(_volume, lambda: (torch.randn(4, 2, 7, 7, 7),)),
}


def train(model: nn.Module, inputs: tuple[Any, ...], steps: int = 4, rate: float = 0.05) -> list[float]:
    """Train towards fixed targets; returns the losses."""
    optimizer = torch.optim.SGD(model.parameters(), rate)
    losses = []
    for _ in range(steps):
        output = model(*inputs)
        loss = (output - torch.linspace(-1, 1, output.numel()).reshape(output.shape)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
