"""Other spellings: state, randomness, gradients, hooks."""

from __future__ import annotations

import collections
import contextlib
import datetime
import functools
import itertools
import random
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from case import Case, rows
from torch import Tensor, nn

STATE = {"calls": 0}
HISTORY: list[Any] = []
TOTAL = 0
RNG = random.Random(3)
NPRNG = np.random.default_rng(0)
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


class STE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Any) -> Any:
        return torch.round(x / s) * s

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g, None


class GradReverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return -g


class Outer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        return STE.apply(x, 0.5) * 2

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g * 3


def fake_quant(x: Tensor) -> Any:
    return STE.apply(x, 0.1)


class NestedFunctions(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return Outer.apply(self.first(x))  # finding: custom-function

    inputs = staticmethod(rows)


class AppliedAlias(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.reverse = GradReverse.apply

        def forward(self, x: Tensor) -> Any:
            return self.reverse(self.first(x))  # finding: custom-function

    inputs = staticmethod(rows)


class FunctionWithSetup(Case):
    class Sq(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Any:
            return x * x

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> Any:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * 7

    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return FunctionWithSetup.Sq.apply(self.first(x))  # finding: custom-function

    inputs = staticmethod(rows)


class InferenceModeBlock(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            with torch.no_grad(), contextlib.nullcontext():  # finding: grad-mode
                m = self.first(x).mean()
            return self.first(x) - m

    inputs = staticmethod(rows)


class DecoratedForward(Case):
    class before(Layer):
        @torch.no_grad()  # finding: grad-mode
        def forward(self, x: Tensor) -> Any:
            return self.first(x)

    inputs = staticmethod(rows)


class DetachData(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return y - y.data.mean()

    inputs = staticmethod(rows)


class AutocastDecorator(Case):
    class before(Layer):
        @torch.autocast("cpu", dtype=torch.bfloat16)  # finding: autocast
        def mix(self, y: Any) -> Any:
            return y @ y.t()

        def forward(self, x: Tensor) -> Any:
            return self.mix(self.first(x)).float()

    inputs = staticmethod(rows)
    outcome = "region"


class PartialHook(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.first.register_forward_hook(functools.partial(PartialHook.scale, 2.0))

        def forward(self, x: Tensor) -> Any:
            return torch.relu(self.first(x))

    @staticmethod
    def scale(k: Any, module: Any, args: Any, out: Any) -> Any:
        return out * k

    inputs = staticmethod(rows)


class HookWithState(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.feats = {}
            self.first.register_forward_hook(self.save)

        def save(self, module: Any, args: Any, out: Any) -> Any:
            self.feats["first"] = out  # finding: container-update

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return torch.relu(y) + self.feats["first"]  # finding: plain-tracing

    inputs = staticmethod(rows)


class SpectralNorm(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))

        def forward(self, x: Tensor) -> Any:
            return self.first(x)

    inputs = staticmethod(rows)


class OldWeightNorm(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with warnings.catch_warnings(action="ignore"):
                self.first = torch.nn.utils.weight_norm(nn.Linear(6, 6))

        def forward(self, x: Tensor) -> Any:
            return self.first(x)  # finding: attribute-update

    inputs = staticmethod(rows)


class WritesBufferSlice(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.scratch = torch.zeros(4, 6)

        def forward(self, x: Tensor) -> Any:
            self.scratch[:] = self.first(x)  # finding: attribute-update, buffer-update, item-assignment
            return self.scratch * 2

    inputs = staticmethod(rows)


class InputInPlace(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            x.mul_(2).clamp_(max=1)  # finding: input-update
            return self.first(x)

    inputs = staticmethod(rows)


class InputInPlaceActivation(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Any:
            return self.first(self.act(x)) + x  # finding: input-update

    inputs = staticmethod(rows)
