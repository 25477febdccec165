"""Other ways: closures, objects, draws, loops that end by value."""

from __future__ import annotations

import collections
import functools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from case import Case, rows
from torch import Tensor, nn


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)


class ClosureOnModule(Case):
    @staticmethod
    def counter() -> Any:
        n = 0

        def count() -> int:
            nonlocal n
            n += 1  # finding: container-update
            return n

        return count

    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.count = ClosureOnModule.counter()

        def forward(self, x: Tensor) -> Any:
            return self.first(x) * self.count()

    inputs = staticmethod(rows)
    outcome = "region"


class CountedCalls(Case):
    @staticmethod
    def counted(forward: Any) -> Any:
        calls = [0]

        @functools.wraps(forward)
        def wrapper(self: nn.Module, x: Tensor) -> Any:
            calls[0] += 1  # finding: global-update
            return forward(self, x) * (1 if calls[0] < 2 else 2)

        return wrapper

    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return self.first(x)

    inputs = staticmethod(rows)
    outcome = "region"


CountedCalls.before.forward = CountedCalls.counted(CountedCalls.before.forward)  # type: ignore[attr-defined]


class Config:
    scale = 1.0
    calls = 0


CFG = Config()


class GlobalObject(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            CFG.calls += 1  # finding: global-update
            return self.first(x) * CFG.scale

    inputs = staticmethod(rows)


class GlobalObjectRead(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            CFG.calls += 1  # finding: global-update
            return self.first(x) * CFG.calls

    inputs = staticmethod(rows)
    outcome = "region"


class ClassAttribute(Case):
    class before(Layer):
        steps = 0

        def forward(self, x: Tensor) -> Any:
            type(self).steps += 1  # finding: global-update
            return self.first(x) / type(self).steps

    inputs = staticmethod(rows)
    outcome = "region"


class OtherModuleState(Case):
    class Stats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen = []

        def forward(self, x: Tensor) -> Any:
            self.seen.append(float(x.mean()))  # finding: container-update, tensor-number

    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.stats = OtherModuleState.Stats()

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            self.stats(y)
            return y + 1

    inputs = staticmethod(rows)


class PingPong(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.flip = False

        def forward(self, x: Tensor) -> Any:
            self.flip = not self.flip  # finding: attribute-update
            y = self.first(x)
            return y if self.flip else -y

    inputs = staticmethod(rows)
    outcome = "region"


class EveryTenth(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.step = 0

        def forward(self, x: Tensor) -> Any:
            self.step += 1  # finding: attribute-update
            y = self.first(x)
            if self.step % 10 == 0:
                y = torch.relu(y)
            return y

    inputs = staticmethod(rows)
    outcome = "region"


class WarmupScale(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("step", torch.zeros(()))

        def forward(self, x: Tensor) -> Any:
            self.step += 1  # finding: buffer-update
            return self.first(x) * torch.clamp(self.step / 100, max=1.0)

    inputs = staticmethod(rows)


class BranchOnStepBuffer(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("step", torch.zeros((), dtype=torch.long))

        def forward(self, x: Tensor) -> Any:
            self.step += 1  # finding: buffer-update
            y = self.first(x)
            if self.step > 3:  # finding: tensor-branch
                y = torch.relu(y)
            return y

    inputs = staticmethod(rows)
    outcome = "region"


class VQ(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("codes", torch.randn(5, 6))

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            d = torch.cdist(y, self.codes)
            q = self.codes[d.argmin(1)]
            return y + (q - y).detach()

    inputs = staticmethod(rows)


class GumbelHard(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return F.gumbel_softmax(self.first(x), hard=True)  # finding: torch-random

    inputs = staticmethod(rows)


class MultinomialSample(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            p = self.first(x).softmax(-1)
            return p.gather(1, torch.multinomial(p, 2))  # finding: torch-random

    inputs = staticmethod(rows)


class NormalInPlace(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return y + y.new_empty(y.shape).normal_()  # finding: torch-random

    inputs = staticmethod(rows)


class ReparamIfTraining(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mu, self.lv = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Any:
            mu, lv = self.mu(x), self.lv(x)
            if self.training:  # finding: training
                return mu + torch.randn_like(mu) * (0.5 * lv).exp()
            return mu

    inputs = staticmethod(rows)


class StochasticDepth(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            if self.training and torch.rand(()) < 0.5:  # finding: training
                return x
            return x + y

    inputs = staticmethod(rows)


class BeamLoop(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            done = torch.zeros(x.size(0), dtype=torch.bool)
            y = self.first(x)
            for _ in range(5):
                y = torch.tanh(y)
                done = done | (y.abs().max(-1)[0] < 0.5)
                if done.all():  # finding: tensor-branch
                    break
            return y

    inputs = staticmethod(rows)
    outcome = "region"


class HaltingAct(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            p = torch.zeros(x.size(0))
            n = 0
            y = x
            while (p < 0.9).any() and n < 6:  # finding: tensor-branch
                y = torch.tanh(self.first(y))
                p = p + torch.sigmoid(y.mean(-1))
                n += 1
            return y, n

    inputs = staticmethod(rows)
    outcome = "region"


class UniqueLoop(Case):
    class before(Layer):
        def forward(self, x: Tensor, groups: Any) -> Any:
            y = self.first(x)
            out = torch.zeros_like(y)
            for g in groups.unique():  # finding: size-loop
                m = groups == g
                out[m] = y[m].mean(0)  # finding: item-assignment
            return out

    inputs = staticmethod(lambda: (torch.randn(4, 6), torch.tensor([0, 1, 0, 1])))
    outcome = "region"


class SplitByLengths(Case):
    class before(Layer):
        def forward(self, x: Tensor, lengths: Any) -> Any:
            parts = torch.split(self.first(x), lengths.tolist())  # finding: tensor-number
            return torch.stack([p.mean(0) for p in parts])  # finding: tensor-shape

    inputs = staticmethod(lambda: (torch.randn(6, 6), torch.tensor([2, 4])))
    outcome = "region"


class PartsOfChosenRows(Case):
    """How many parts there are depends on values."""

    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            chosen = y[y[:, 0] > 0]  # finding: tensor-shape
            total = torch.zeros(6)
            for part in chosen.split(2):  # finding: tensor-shape
                total = total + part.amax(0)
            return total

    inputs = staticmethod(lambda: (torch.randn(16, 6),))
    outcome = "region"


class AllPartsButOne(Case):
    """A slice of a tuple is as long as there are parts."""

    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return torch.cat(y.split(2)[:-1])  # finding: size-loop

    inputs = staticmethod(lambda: (torch.randn(8, 6),))
    outcome = "region"


class ReversedParts(Case):
    """A list that a graph makes is changed in place."""

    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            parts = list(y.unbind(0))  # finding: size-loop
            parts.reverse()
            return torch.stack(parts)

    inputs = staticmethod(lambda: (torch.randn(8, 6),))
    outcome = "region"


class ArangeByMax(Case):
    class before(Layer):
        def forward(self, x: Tensor, lengths: Any) -> Any:
            m = torch.arange(lengths.max())[None] < lengths[:, None]
            return self.first(x) * m[:, :1]

    inputs = staticmethod(lambda: (torch.randn(3, 6), torch.tensor([2, 4, 1])))


class NmsLike(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            keep = []
            order = y[:, 0].argsort(descending=True)
            while order.numel() > 0:  # finding: tensor-branch
                i = order[0]
                keep.append(i)
                order = order[1:][(y[order[1:], 1] - y[i, 1]).abs() > 0.1]
            return y[torch.stack(keep)]

    inputs = staticmethod(rows)
    outcome = "region"


class RowsOfNumpy(Case):
    """How many rows an array has, and how long text is."""

    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            rows = y.detach().numpy()  # finding: tensor-numpy
            total = torch.zeros(6)
            for row in rows:
                total = total + torch.from_numpy(row)
            return total / len(rows)

    inputs = staticmethod(rows)
    outcome = "region"


class TextOfTensor(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            signs = str((y[0] > 0).tolist())  # finding: tensor-number
            return y * len(signs)

    inputs = staticmethod(rows)
    outcome = "region"


class TypeOfNumber(Case):
    """A class is asked for by identity, next to a test that is answered as eager does."""

    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            rows = x.shape[0]
            y = self.first(x)
            return y * 2 if isinstance(rows, int) and type(rows) is int else y  # finding: type-test

    inputs = staticmethod(rows)


class KeysByValues(Case):
    """Which keys a dictionary has depends on values; code goes through it."""

    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            counts = collections.Counter((y[:, 0] > 0).tolist())  # finding: tensor-number
            for key, count in counts.items():
                y = y * (count + key)
            return y + len(counts)

    inputs = staticmethod(rows)
    outcome = "region"


class AsManyTensors(Case):
    """A list is repeated: no product of tensors."""

    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return torch.stack([y] * x.shape[0])  # finding: size

    inputs = staticmethod(rows)
    outcome = "region"


class WritesIntoArray(Case):
    """NumPy's arrays are written in place."""

    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            filled = np.zeros(x.shape, dtype=np.float32)  # finding: size
            filled[:] = x.shape[0]  # finding: item-assignment
            return self.first(x) + torch.from_numpy(filled)

    inputs = staticmethod(rows)
    outcome = "region"
