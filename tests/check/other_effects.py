"""Other spellings: state."""

from __future__ import annotations

import collections
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from case import Case, rows
from torch import Tensor, nn

STATE = {"calls": 0}
HISTORY: list[Any] = []
TOTAL = 0
_counter = itertools.count()


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)


def remember(store: Any, value: Any) -> Any:
    store["last"] = value


class SetAttr(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            setattr(self, "last_" + "out", y)  # finding: attribute-update
            return y

    inputs = staticmethod(rows)


class DictUpdate(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            self.__dict__["seen"] = 1  # finding: attribute-update
            return y

    inputs = staticmethod(rows)


class GlobalDict(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            STATE["calls"] += 1  # finding: global-update
            return self.first(x)

    inputs = staticmethod(rows)


class GlobalList(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            HISTORY.append(y.shape)  # finding: global-update
            return y

    inputs = staticmethod(rows)


class GlobalCounterRead(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            global TOTAL
            TOTAL += 1  # finding: global-update
            return self.first(x) / TOTAL

    inputs = staticmethod(rows)
    outcome = "region"


class IteratorState(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return self.first(x) * (1 + next(_counter))  # finding: global-update

    inputs = staticmethod(rows)
    outcome = "region"


class IteratorOnModule(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.steps = itertools.cycle([1.0, 2.0])

        def forward(self, x: Tensor) -> Any:
            return self.first(x) * next(self.steps)  # finding: container-update

    inputs = staticmethod(rows)
    outcome = "region"


class DequeHistory(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.past = collections.deque(maxlen=3)

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            self.past.append(y.detach())  # finding: container-update
            return sum(self.past) / len(self.past)

    inputs = staticmethod(rows)
    outcome = "region"


class MutableDefault(Case):
    class before(Layer):
        def forward(self, x: Tensor, seen: Any = []) -> Any:  # noqa: B006
            seen.append(1)  # finding: global-update
            return self.first(x) * len(seen)

    inputs = staticmethod(rows)
    outcome = "region"


class DataclassState(Case):
    @dataclass
    class S:
        n: int = 0

    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.state = DataclassState.S()

        def forward(self, x: Tensor) -> Any:
            self.state.n += 1  # finding: container-update
            return self.first(x) * self.state.n

    inputs = staticmethod(rows)
    outcome = "region"


class RunningMean(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(6))
            self.register_buffer("n", torch.tensor(0))

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            self.n += 1  # finding: buffer-update
            self.mean = self.mean + (y.mean(0) - self.mean) / self.n  # finding: buffer-update
            return y - self.mean

    inputs = staticmethod(rows)


class EMAInPlace(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("ema", torch.zeros(6))

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            with torch.no_grad():  # finding: grad-mode
                self.ema.mul_(0.9).add_(y.mean(0), alpha=0.1)  # finding: buffer-update
            return y + self.ema

    inputs = staticmethod(rows)


class PointerBuffer(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("queue", torch.zeros(8, 6))
            self.register_buffer("ptr", torch.zeros(1, dtype=torch.long))

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            p = int(self.ptr)  # finding: tensor-number
            self.queue[p : p + 4] = y.detach()  # finding: buffer-update, item-assignment
            self.ptr[0] = (p + 4) % 8  # finding: buffer-update, item-assignment
            return y @ self.queue.t()

    inputs = staticmethod(rows)


class KVCache(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Linear(6, 6)
            self.cache = None

        def forward(self, x: Tensor) -> Any:
            k = self.q(x)
            if self.cache is not None:
                k = torch.cat([self.cache, k], 1)
            self.cache = k  # finding: attribute-update
            return x @ k.transpose(1, 2)

    inputs = staticmethod(lambda: (torch.randn(2, 3, 6),))
    outcome = "region"
