"""Pairs for what is true of a model as a whole, and for kinds that the other files show without a fix."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from case import Case, rows
from torch import Tensor, nn

TABLE = torch.zeros(4, 6)


class Layer(nn.Module):
    """The layer around what fails."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)


class Plain(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(x))


class LeafIsTheModel(Case):
    before = staticmethod(lambda: nn.BatchNorm1d(6))
    after = staticmethod(lambda: nn.Sequential(nn.BatchNorm1d(6)))
    inputs = staticmethod(rows)
    of_model = ("root-leaf",)
    same = False  # the weights have other names


class HookOfTheModel(Case):
    @staticmethod
    def before() -> nn.Module:
        model = Plain()
        model.register_forward_hook(lambda module, args, output: output * 2)  # finding: root-hook
        return model

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.first(x)) * 2

    inputs = staticmethod(rows)


class HookOfALayer(Case):
    @staticmethod
    def before() -> nn.Module:
        model = nn.Sequential(nn.BatchNorm1d(6), nn.ReLU())
        model[0].register_forward_hook(lambda module, args, output: output + 1)
        return model

    after = staticmethod(lambda: nn.Sequential(nn.BatchNorm1d(6), nn.ReLU()))
    inputs = staticmethod(rows)
    of_model = ("module-hook",)
    same = False


class BehindADecorator(Case):
    @staticmethod
    def logged(forward: Any) -> Any:
        @functools.wraps(forward)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return forward(*args, **kwargs)

        return wrapper

    class before(Layer):
        def forward(self, x: Tensor, **options: Any) -> Tensor:  # finding: keywords
            return torch.relu(self.first(x))

    after = Plain
    inputs = staticmethod(rows)


BehindADecorator.before.forward = BehindADecorator.logged(BehindADecorator.before.forward)  # type: ignore[method-assign]


class AsksForTheType(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.first(x)) if isinstance(x, Tensor) else self.first(x[0])  # finding: type-test

    after = Plain
    inputs = staticmethod(rows)


class ParallelLayer(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.DataParallel(nn.Linear(6, 6))  # type: ignore[assignment]

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.first(x))  # finding: data-parallel

    after = Plain
    inputs = staticmethod(rows)
    same = False


class CompiledLayer(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.compile(nn.Linear(6, 6), backend="eager")  # type: ignore[assignment]

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.first(x))  # finding: compiled

    after = Plain
    inputs = staticmethod(rows)
    same = False


class ScriptedLayer(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            with warnings.catch_warnings(action="ignore"):  # it is deprecated
                self.first = torch.jit.trace(nn.Linear(6, 6), torch.randn(4, 6))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.first(x))  # finding: scripted

    after = Plain
    inputs = staticmethod(rows)
    outcome = "region"
    same = False


class MappedOverRows(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return torch.vmap(torch.dot)(y, y)  # finding: error

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return (y * y).sum(-1)

    inputs = staticmethod(rows)
    outcome = "region"


class SetsData(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            y.data = y.data * 2  # finding: opaque-call
            return y

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) * 2

    inputs = staticmethod(rows)
    outcome = "region"


class HiddenByOnesAndUsed(Case):
    """The mask is all ones, and the model takes no other: nothing shows what it is for."""

    class before(Layer):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            if not bool(mask.all()):  # finding: hidden-case, tensor-branch
                raise ValueError("padding is not supported")
            return self.first(x)

    after = staticmethod(lambda: HiddenByOnesAndUsed.Unmasked())

    class Unmasked(Layer):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.first(x) * scale.float().mean()

    inputs = staticmethod(lambda: (torch.randn(4, 6), torch.ones(4, dtype=torch.bool)))
    same = False
