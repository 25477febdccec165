"""Models that look as if something were wrong with them, and that every tracer takes."""

from __future__ import annotations

import random
import time
from typing import Any

import torch
import torch.nn.functional as F
from case import Case, rows
from torch import Tensor, nn


class Layer(nn.Module):
    """The layer around what looks wrong."""

    debug = False

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)


class LambdaThatIsNotCalled(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            log = lambda: time.time()  # noqa: E731, F841
            draw = lambda: random.random()  # noqa: E731, F841
            drop = lambda: F.dropout(x, 0.5)  # noqa: E731, F841
            return self.first(x)

    inputs = staticmethod(rows)


class FunctionThatIsNotCalled(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            def noise() -> Any: return random.random(), torch.randn(3)  # fmt: skip

            return self.first(x)

    inputs = staticmethod(rows)


class LambdaForAnotherMode(Case):
    """One lambda is called, its neighbour on the line is not."""

    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            change = (lambda t: t * random.random()) if self.debug else (lambda t: t * 2)  # finding: unreached
            return self.first(change(x))

    inputs = staticmethod(rows)


class WritesIntoAConstant(Case):
    """What is written into is no value of the graph: plain tracing writes into it as eager does."""

    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            weights = torch.ones(6)
            weights[0] = 2.0
            weights[1:3] = torch.tensor([0.5, 0.25])
            return self.first(x * weights)

    inputs = staticmethod(rows)


class ParameterExpanded(Case):
    """A parameter is a proxy to plain tracing, which records its methods; a buffer is none."""

    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.start = nn.Parameter(torch.zeros(1, 6))
            self.register_buffer("end", torch.zeros(1, 6))

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([self.start.expand(x.shape[0], -1), x])
            return self.first(torch.cat([x, self.end.expand(x.shape[0], -1)]))  # finding: factory

    inputs = staticmethod(rows)


class SizesInOneTuple(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            n = x.shape[1]
            return self.first(x) @ torch.triu(torch.ones((n, n)), 1)

    inputs = staticmethod(rows)


class UnpacksInsideTorch(Case):
    """The encoder of torch.nn unpacks sizes; plain tracing does not open it."""

    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.first(self.encoder(x))

    inputs = staticmethod(lambda: (torch.randn(2, 5, 6),))


SCALE = torch.ones(6)


class UnreachedAndHarmless(Case):
    """What the example does not reach changes local values only, and reads what outlives the call."""

    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 3
            self.register_buffer("bias", torch.zeros(6))

        def forward(self, x: Tensor, steps: int = 0) -> Tensor:
            y: Tensor = self.first(x)
            if self.debug:
                y += 1
                steps += 1
                count = self.calls
                count += steps
                bias = self.bias.add(SCALE.add(1))
                bias += count
                SCALES = [y]
                SCALES.append(bias)
                device = next(self.parameters()).device
                y = F.dropout(F.rrelu(y.to(device)), 0.5, training=False)
                y = F.alpha_dropout(torch.dropout(y, 0.5, self.training), 0.5)
            return y

    inputs = staticmethod(rows)


class TensorThatIsNoList(Case):
    class before(Layer):
        def forward(self, x: Any) -> Tensor:
            if isinstance(x, (list, tuple)):
                x = torch.cat(x, 1)
            y: Tensor = self.first(x)
            return y

    inputs = staticmethod(rows)


class WritesIntoWhatItMakes(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.first(x)
            if self.debug:
                mask = torch.zeros(6)
                mask.fill_(1)
                y = y + mask + F.relu_(y * 2) + torch.ones(6).mul_(2)
            return y

    inputs = staticmethod(rows)
