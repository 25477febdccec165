"""Other ways: state between calls, random orders, sizes."""

from __future__ import annotations

import collections
import enum
import random
import time
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


class EmaWithItem(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.ema = 0.0

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            self.ema = 0.9 * self.ema + 0.1 * y.abs().mean().item()  # finding: attribute-update, tensor-number
            return y / (1 + self.ema)

    inputs = staticmethod(rows)
    outcome = "region"


class ScaleFromFirstBatch(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.scale = None

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            if self.scale is None:
                self.scale = y.abs().max()  # finding: attribute-update
            return y / self.scale

    inputs = staticmethod(rows)
    outcome = "region"


class MemoryBank(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.bank = []

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            self.bank.append(y.detach().mean(0))  # finding: container-update
            return y - torch.stack(self.bank).mean(0)

    inputs = staticmethod(rows)
    outcome = "region"


class DefaultDictCount(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.hits = collections.defaultdict(int)

        def forward(self, x: Tensor) -> Any:
            self.hits[x.shape[0]] += 1  # finding: container-update
            return self.first(x) * self.hits[x.shape[0]]

    inputs = staticmethod(rows)
    outcome = "region"


class SetMembership(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.seen = set()

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            first = x.shape[0] not in self.seen
            self.seen.add(x.shape[0])  # finding: container-update
            return y if first else y * 2

    inputs = staticmethod(rows)
    outcome = "region"


class TimeBudget(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            start = time.perf_counter()  # finding: time
            if time.perf_counter() - start > 1e6:  # finding: time
                return -y
            return y

    inputs = staticmethod(rows)
    outcome = "region"


class NumpyMask(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            keep = torch.from_numpy(np.random.rand(6) < 0.9)  # finding: python-random
            return self.first(x) * keep

    inputs = staticmethod(rows)
    outcome = "whole"


class RandomSampleColumns(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            cols = random.sample(range(6), 3)  # finding: python-random
            return self.first(x)[:, cols]

    inputs = staticmethod(rows)
    outcome = "region"


class ShuffleList(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

        def forward(self, x: Tensor) -> Any:
            order = list(range(3))
            random.shuffle(order)  # finding: python-random
            for i in order:
                x = torch.tanh(self.layers[i](x))  # finding: tensor-number
            return x

    inputs = staticmethod(rows)
    outcome = "region"


class Interpolate(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Any:
            h, w = x.shape[-2:]
            y = self.c(F.interpolate(x, size=(int(h * 1.5), int(w * 0.75))))  # finding: size
            return F.interpolate(y, size=(h, w))

    inputs = staticmethod(image)


class PadToMultiple(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Conv2d(3, 4, 4, stride=4)

        def forward(self, x: Tensor) -> Any:
            p = (4 - x.shape[-1] % 4) % 4
            if p:  # finding: size-branch
                x = F.pad(x, (0, p, 0, p))
            return self.c(x)

    inputs = staticmethod(image)
    outcome = "region"


class WindowPartition(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.l = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Any:
            b, c, h, w = x.shape
            x = x.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
            return self.l(x)

    inputs = staticmethod(image)


class ConstBatchExpand(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.tok = nn.Parameter(torch.randn(1, 1, 6))

        def forward(self, x: Tensor) -> Any:
            return torch.cat([self.tok.expand(x.size(0), -1, -1), self.first(x)], 1)

    inputs = staticmethod(lambda: (torch.randn(2, 3, 6),))


class MutableOutputCache(Case):
    class before(Layer):
        def forward(self, x: Tensor, cache: Any = None) -> Any:
            y = self.first(x)
            if cache is not None:
                cache["y"] = y  # finding: item-assignment
            return y, cache

    inputs = staticmethod(lambda: (torch.randn(4, 6), {"y": torch.zeros(4, 6)}))


class ComplexValues(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return torch.fft.rfft(self.first(x)).abs()

    inputs = staticmethod(rows)


class Einops(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            q = self.first(x)
            return torch.einsum("bnd,bmd->bnm", q, q).softmax(-1)

    inputs = staticmethod(lambda: (torch.randn(2, 3, 6),))


class BufferFilledLater(Case):
    class before(Layer):
        seen: Tensor | None

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", None)

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            self.seen = y.sum() if self.seen is None else self.seen + y.sum()  # finding: buffer-update
            return y + self.seen

    inputs = staticmethod(rows)
    outcome = "region"


class WeightsSwapped(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("average", torch.randn(6, 6))

        def forward(self, x: Tensor) -> Any:
            kept = self.first.weight.data
            y = self.first(x)
            self.first.weight.data = self.average  # finding: buffer-update
            z = self.first(x)
            self.first.weight.data = kept  # finding: buffer-update
            return y - z

    inputs = staticmethod(rows)
    outcome = "region"


class EnumSwitched(Case):
    class Phase(enum.Enum):
        FIRST = 1
        OTHER = 2

    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.phase = EnumSwitched.Phase.FIRST

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            if self.phase is EnumSwitched.Phase.FIRST:
                self.phase = EnumSwitched.Phase.OTHER  # finding: attribute-update
                return y
            return y * 2

    inputs = staticmethod(rows)
    outcome = "region"


class ModeSetAndPutBack(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(6)

        def forward(self, x: Tensor) -> Any:
            was = self.norm.training
            self.norm.train()  # finding: attribute-update
            y = self.norm(self.first(x))  # finding: buffer-update
            self.norm.train(was)  # finding: attribute-update
            return y

    inputs = staticmethod(rows)
    outcome = "region"


class CountedByHook(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.counts = counts = {"calls": 0}

            def count(module: Any, args: Any, result: Any) -> None:
                counts["calls"] += 1  # finding: container-update

            self.first.register_forward_hook(count)

        def forward(self, x: Tensor) -> Any:
            return self.first(x)  # finding: module-hook

    inputs = staticmethod(rows)
