"""Models with gradients, random numbers and clocks that vanish from a graph, or change meaning in it."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from case import Case, rows
from torch import Tensor, nn


class Layer(nn.Module):
    """The layer around what fails."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)


class Sign(torch.autograd.Function):
    """Straight through: the sign forward, nothing but the gradient backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 64


class StraightThrough(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.sign = StraightThrough.Binary()

        def forward(self, x: Tensor) -> Tensor:
            return self.sign(self.first(x))

    class Binary(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Sign.apply(x)  # finding: custom-function

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return y + (y.sign() - y).detach()

    inputs = staticmethod(rows)
    same = False


class NoGradients(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():  # finding: grad-mode
                scale = self.first(x).mean()
            return self.first(x) * scale

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            scale = (self.first(x).mean()).detach()
            return self.first(x) * scale

    inputs = staticmethod(rows)
    applied = True


class NoGradientsDecorated(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) * self.scale(x)

        @torch.no_grad()  # finding: grad-mode
        def scale(self, x: Tensor) -> Tensor:
            return self.first(x).mean()

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) * self.first(x).mean().detach()

    inputs = staticmethod(rows)


class SetGradients(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            torch.set_grad_enabled(False)  # finding: grad-mode
            scale = self.first(x).mean()
            torch.set_grad_enabled(True)  # finding: grad-mode
            return self.first(x) * scale

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) * self.first(x).mean().detach()

    inputs = staticmethod(rows)


class Autocast(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.product = Autocast.Product()

        def forward(self, x: Tensor) -> Tensor:
            return self.product(self.first(x))

    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):  # finding: autocast
                y = x @ x.t()
            return y.float()

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x).to(torch.bfloat16)
            return (y @ y.t()).float()

    inputs = staticmethod(rows)
    outcome = "region"


class PythonRandom(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.noise = PythonRandom.Noise()

        def forward(self, x: Tensor) -> Tensor:
            return self.noise(self.first(x))

    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * random.random()  # finding: python-random

    class after(Layer):
        def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
            y = self.first(x)
            return y if noise is None else y * noise

    inputs = staticmethod(rows)
    same = False


class LayerDrop(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.block = nn.Linear(6, 6), LayerDrop.Block()

        def forward(self, x: Tensor) -> Tensor:
            return self.block(self.first(x))

    class Block(Layer):
        def forward(self, x: Tensor) -> Tensor:
            if random.uniform(0, 1) < 0.5:  # finding: python-random
                return x
            return x + self.first(x)

    class after(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return x + self.second(x)

    inputs = staticmethod(rows)
    outcome = "region"
    same = False


class NumpyRandom(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.noise = NumpyRandom.Noise()

        def forward(self, x: Tensor) -> Tensor:
            return self.noise(self.first(x))

    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * float(np.random.rand())  # finding: python-random

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x)

    inputs = staticmethod(rows)
    same = False


class TorchRandom(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return y + torch.randn_like(y) * 0.1  # finding: torch-random

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x)

    inputs = staticmethod(rows)
    same = False


class TorchRandomOfConstantShape(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) + torch.rand(6)  # finding: torch-random

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x)

    inputs = staticmethod(rows)
    same = False


class AlwaysDropout(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.first(x), 0.5)  # finding: always-dropout

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.first(x), 0.5, training=self.training)

    inputs = staticmethod(rows)
    applied = True
    same = False


class Clock(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.late = Clock.Late()

        def forward(self, x: Tensor) -> Tensor:
            return self.late(self.first(x))

    class Late(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 0 * time.time()  # finding: time

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x)

    inputs = staticmethod(rows)
