"""Models whose trouble is where the example does not go."""

from __future__ import annotations

import heapq
import os
import random
import secrets
from random import random as draw
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from case import Case, rows
from torch import Tensor, nn
from torch.nn.functional import dropout


class Layer(nn.Module):
    """The layer around what fails."""

    def __init__(self, mode: str = "plain") -> None:
        super().__init__()
        self.first, self.mode, self.calls = nn.Linear(6, 6), mode, 0
        self.seen: list[Tensor] = []
        self.register_buffer("total", torch.zeros(6))


class Twice(torch.autograd.Function):
    """Some function with a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class After(Layer):
    """What is left when the unreached branch goes."""

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x)


class UnreachedMutation(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            if self.mode == "count":
                self.calls += 1  # finding: unreached
            return self.first(x)

    after = After
    inputs = staticmethod(rows)


class UnreachedAppend(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            if self.mode == "keep":
                self.seen.append(y)  # finding: unreached
            return y

    after = After
    inputs = staticmethod(rows)


class UnreachedInPlace(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            if self.mode == "sum":
                self.total.add_(x.sum(0))  # finding: unreached
            return self.first(x)

    after = After
    inputs = staticmethod(rows)


class UnreachedItem(Case):
    class before(Layer):
        def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
            y = self.first(x)
            if bias is not None:
                y[:, 0] = bias  # finding: unreached
            return y

    after = After
    inputs = staticmethod(rows)


class UnreachedRandom(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            if self.mode == "noise":
                return y * random.random()  # finding: unreached
            elif self.mode == "torch":
                return y + torch.randn(6)  # finding: unreached
            return y

    after = After
    inputs = staticmethod(rows)


class UnreachedFunction(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return y if self.mode == "plain" else self.twice(y)

        def twice(self, x: Tensor) -> Tensor:
            return Twice.apply(x)  # finding: unreached

    after = After
    inputs = staticmethod(rows)


class UnreachedInHelper(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            if self.mode == "log":
                self.remember(x)
            return self.first(x)

        def remember(self, x: Tensor) -> None:
            self.last = x  # finding: unreached

    after = After
    inputs = staticmethod(rows)


class UnreachedInLoop(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.scales: list[float] = []

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            for scale in self.scales:
                y = y + x.sum().item() * scale  # finding: unreached
            return y

    class after(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.scales: list[float] = []

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            for scale in self.scales:
                y = y + x.sum() * scale
            return y

    inputs = staticmethod(rows)


class UnreachedInExcept(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.first(x)
            except RuntimeError:
                self.calls = -1  # finding: unreached
                return x

    after = After
    inputs = staticmethod(rows)
    outcome = "limited"


class OnlyInTraining(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            if self.training:  # finding: training
                self.total = self.total + y.detach().sum(0)
            return y

    after = After
    inputs = staticmethod(rows)


class UnreachedOnOneLine(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            if self.mode == "keep": self.seen.append(y)  # finding: unreached  # noqa: E701  # fmt: skip
            return y

    after = After
    inputs = staticmethod(rows)


class UnreachedSide(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.first(x)
            return y + torch.rand(6) if self.mode == "noise" else y  # finding: unreached

    after = After
    inputs = staticmethod(rows)


class UnreachedArm(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.first(x)
            match self.mode:
                case "noise":
                    y = y + torch.rand(6)  # finding: unreached
                case _:
                    y = y * 1.0
            return y

    after = After
    inputs = staticmethod(rows)


class UnreachedOfTheClass(Case):
    class before(Layer):
        used = 0

        @classmethod
        def count(cls, y: Tensor, on: bool) -> Tensor:
            if on:
                cls.used = 1  # finding: unreached
            return y

        def forward(self, x: Tensor) -> Tensor:
            return self.count(self.first(x), self.mode == "count")

    after = After
    inputs = staticmethod(rows)


class UnreachedByName(Case):
    class before(Layer):
        def run_noise(self, y: Tensor) -> Tensor:
            return y + torch.rand(6)  # finding: unreached

        def run_plain(self, y: Tensor) -> Tensor:
            return y

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = getattr(self, f"run_{self.mode}")(self.first(x))
            return found

    after = After
    inputs = staticmethod(rows)


class UnreachedInTable(Case):
    class before(Layer):
        def noise(self, y: Tensor) -> Tensor:
            return y + torch.rand(6)  # finding: unreached

        def plain(self, y: Tensor) -> Tensor:
            return y

        def forward(self, x: Tensor) -> Tensor:
            return {"noise": self.noise, "plain": self.plain}[self.mode](self.first(x))

    after = After
    inputs = staticmethod(rows)


class UnreachedKeywords(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            if self.mode == "a":
                torch.nn.functional.relu(y, inplace=True)  # finding: unreached
            if self.mode == "b":
                torch.mul(y, 2, out=y)  # finding: unreached
            if self.mode == "c":
                setattr(self, "calls", 2)  # finding: unreached  # noqa: B010
            if self.mode == "d":
                self.register_buffer("other", y)  # finding: unreached
            if self.mode == "e":
                torch.manual_seed(0)  # finding: unreached
            if self.mode == "f":
                y = torch.nn.functional.gumbel_softmax(y)  # finding: unreached
            if self.mode == "g":
                self.calls, _k = 3, 4  # finding: unreached
            if self.mode == "h":
                self.first.weight.data *= 2  # finding: unreached
            return y

    after = After
    inputs = staticmethod(rows)


class CountsInTraining(Case):
    """Counts in training mode only: the graph of a model in eval mode has nothing of it, and a trained one loses it."""

    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.first(x)
            if self.training:  # finding: training
                self.calls += 1  # finding: attribute-update
            return y

    inputs = staticmethod(rows)


class Meter:
    """Counts for the whole process."""

    total = 0


HISTORY: list[Tensor] = []


class UnreachedOutside(Case):
    class before(Layer):
        def __init__(self, mode: str = "plain") -> None:
            super().__init__(mode)
            self.heap: list[int] = []
            self.numbers = iter([1])

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            if self.mode == "a":
                object.__setattr__(self, "calls", 2)  # finding: unreached
            if self.mode == "b":
                UnreachedOutside.outcome = "other"  # finding: unreached
            if self.mode == "c":
                Meter.total += 1  # finding: unreached
            if self.mode == "d":
                HISTORY.append(y)  # finding: unreached
            if self.mode == "e":
                heapq.heappush(self.heap, 1)  # finding: unreached
            if self.mode == "f":
                next(self.numbers)  # finding: unreached
            if self.mode == "g":
                x += 1  # finding: unreached
            if self.mode == "h":
                total = self.total
                total *= 2  # finding: unreached
            return y

    after = After
    inputs = staticmethod(rows)


class UnreachedNumbers(Case):
    class before(Layer):
        def __init__(self, mode: str = "plain") -> None:
            super().__init__(mode)
            self.numbers, self.others = np.random.default_rng(0), random.Random(1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.first(x)
            if self.mode == "python":
                y = y * draw()  # finding: unreached
                y = y * float(self.numbers.normal())  # finding: unreached
                y = y * self.others.random()  # finding: unreached
                y = y + secrets.randbelow(3)  # finding: unreached
                y = y + os.urandom(1)[0]  # finding: unreached
            if self.mode == "torch":
                y = y + torch.poisson(y)  # finding: unreached
                y = y + y.bernoulli()  # finding: unreached
            if self.mode == "drop":
                y = torch.dropout(y, 0.5, True)  # finding: unreached
                y = dropout(y, 0.5)  # finding: unreached
                y = F.dropout1d(y, 0.5)  # finding: unreached
                y = F.rrelu(y, training=True)  # finding: unreached
            return y

    after = After
    inputs = staticmethod(rows)


class UnreachedImport(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.first(x)
            if self.mode == "twice":
                from broken_unreached import Twice as Imported

                y = Imported.apply(y)  # finding: unreached
            return y

    after = After
    inputs = staticmethod(rows)


class UnreachedBase(Case):
    class before(nn.Module):
        class Base(Layer):
            def forward(self, x: Tensor) -> Tensor:
                self.last = x  # finding: unreached
                return self.first(x)

        class Inner(Base):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) if self.mode == "keep" else self.first(x)

        def __init__(self) -> None:
            super().__init__()
            self.inner = self.Inner()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    after = After
    inputs = staticmethod(rows)
    same = False


class UnreachedProperty(Case):
    class before(Layer):
        @property
        def counter(self) -> int:
            self.calls += 1  # finding: unreached
            return self.calls

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.first(x)
            return y / self.counter if self.mode == "mean" else y

    after = After
    inputs = staticmethod(rows)


class UnreachedDrawInPlace(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.first(x)
            if self.mode == "noise":
                noise = torch.zeros(6)
                noise.normal_()  # finding: unreached
                y = y + noise
            return y

    after = After
    inputs = staticmethod(rows)
