"""Other spellings: random numbers and dates."""

from __future__ import annotations

import datetime
import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from case import Case, rows
from other_effects import Layer
from torch import Tensor, nn

RNG = random.Random(3)
NPRNG = np.random.default_rng(0)


class RandLike(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return y + torch.rand_like(y)  # finding: torch-random

    inputs = staticmethod(rows)


class BernoulliMask(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            keep = torch.empty_like(y).bernoulli_(0.8)  # finding: torch-random
            return y * keep / 0.8

    inputs = staticmethod(rows)


class DropPath(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            mask = torch.rand((x.shape[0], 1), device=x.device) + 0.9  # finding: torch-random
            return y.div(0.9) * mask.floor_()

    inputs = staticmethod(rows)


class ShuffleRows(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return self.first(x)[torch.randperm(x.size(0))]  # finding: torch-random

    inputs = staticmethod(rows)


class PrivateRandom(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return self.first(x) * RNG.random()  # finding: python-random

    inputs = staticmethod(rows)
    outcome = "region"


class NumpyGenerator(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return self.first(x) * float(NPRNG.normal())  # finding: python-random

    inputs = staticmethod(rows)
    outcome = "region"


class RandomChoice(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            act = random.choice([torch.relu, torch.tanh])  # finding: python-random
            return act(self.first(x))

    inputs = staticmethod(rows)
    outcome = "region"


class RandomIf(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            if random.random() < 0.5:  # finding: python-random
                y = torch.relu(y)
            return y

    inputs = staticmethod(rows)
    outcome = "region"


class TorchRandItem(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            if torch.rand(1).item() < 0.5:  # finding: tensor-number, torch-random
                y = torch.relu(y)
            return y

    inputs = staticmethod(rows)
    outcome = "region"


class FunctionalAlphaDropout(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return F.alpha_dropout(self.first(x), 0.3, training=True)  # finding: always-dropout

    inputs = staticmethod(rows)


class ModuleAlwaysTraining(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Any:
            self.drop.train()  # finding: attribute-update
            return self.drop(self.first(x))  # finding: always-dropout

    inputs = staticmethod(rows)
    outcome = "region"


class Datetime(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return self.first(x) + 0.0 * datetime.datetime.now().timestamp()  # finding: time

    inputs = staticmethod(rows)
    outcome = "region"


class LambdaOverTwoLines(Case):
    outcome = "region"

    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            draw = lambda low, high: (  # noqa: E731
                float(NPRNG.uniform(low, high))  # finding: python-random
            )
            return self.first(x) * draw(0.0, 1.0)

    inputs = staticmethod(rows)


class BranchOnDrawnNumber(Case):
    outcome = "region"

    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            cut = random.randint(1, 3)  # finding: python-random
            parts = [y if number < cut else x for number in range(4)]  # finding: python-random
            return torch.cat(parts, 1)

    inputs = staticmethod(rows)


class SeededByRows(Case):
    outcome = "region"

    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            numbers = np.random.default_rng(x.shape[0])  # finding: python-random
            return self.first(x) * float(numbers.random())

    inputs = staticmethod(rows)


class FractionalPool(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.FractionalMaxPool2d(2, output_ratio=0.5)

        def forward(self, x: Tensor) -> Any:
            return self.pool(self.first(x))  # finding: torch-random
