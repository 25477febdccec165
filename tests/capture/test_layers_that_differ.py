"""Of many layers that look alike, one does something else, on other values only: that is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from fxquant import pipeline

LAYERS, ODD, LIMIT = 14, 9, 1e5
BOX = [1e5]
SMALL, LARGE = 0.1 * torch.randn(2, 4), 50 * torch.randn(3, 4)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        nn.init.orthogonal_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def limited(self, x: Tensor, limit: float) -> Tensor:
        y: Tensor = self.linear(x)
        return F.hardtanh(y, -limit, limit)


class EntersItself(Layer):
    def __enter__(self) -> float:
        return LIMIT

    def __exit__(self, *_: object) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        with self as limit:
            return self.limited(x, limit)


class AsksItself(Layer):
    def __getitem__(self, _: int) -> float:
        return LIMIT

    def forward(self, x: Tensor) -> Tensor:
        return self.limited(x, self[0])


def _ask(layer: Layer) -> float:
    limit: float = layer.bound()  # type: ignore[operator]
    return limit


class AsksThroughFunction(Layer):
    def bound(self) -> float:
        return LIMIT

    def forward(self, x: Tensor) -> Tensor:
        return self.limited(x, _ask(self))


class Metaclass(type):
    @property
    def limit(cls) -> float:
        return LIMIT


class AsksMetaclass(Layer, metaclass=Metaclass):
    def forward(self, x: Tensor) -> Tensor:
        return self.limited(x, self.__class__.limit)


class MayBeThere(Layer):
    def forward(self, x: Tensor) -> Tensor:
        try:
            FLAG  # type: ignore[name-defined]  # noqa: B018
        except NameError:
            return self.limited(x, 1e5)
        return self.limited(x, 2.0)


class MayHaveLimit(Layer):
    def forward(self, x: Tensor) -> Tensor:
        try:
            return self.limited(x, self.bound)  # type: ignore[arg-type]
        except AttributeError:
            return self.limited(x, 1e5)


class Base(Layer):
    bound = 1e5

    def forward(self, x: Tensor) -> Tensor:
        return self.limited(x, self.bound)


class Shadowed(Base):
    pass


def _limit(x: Tensor) -> Tensor:
    return x


def _other_limit(x: Tensor) -> Tensor:
    return x.clamp(-BOX[0], BOX[0])


class Calls(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return _limit(self.linear(x))


class Hooked(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y


def _set_global(name: str, value: Any) -> Callable[[bool], None]:
    before = globals().get(name, ...)

    def switch(on: bool) -> None:
        if on or before is not ...:
            globals()[name] = value if on else before
        else:
            del globals()[name]

    return switch


def _set_on_class(kind: type[Layer]) -> Callable[[bool], None]:
    return lambda on: setattr(kind, "bound", 2.0) if on else delattr(kind, "bound")


def _other_function(on: bool) -> None:
    BOX[0] = 2.0 if on else 1e5
    globals()["_limit"] = _other_limit if on else _LIMIT


_LIMIT = _limit


def _clamp(module: nn.Module, _: Any, y: Tensor) -> Tensor:
    return y.clamp(-2, 2) if isinstance(module, Hooked) else y


class Hooks:
    handle: Any = None

    def __call__(self, on: bool) -> None:
        if on:
            self.handle = register_module_forward_hook(
                lambda module, _, y: y.clamp(-2, 2) if isinstance(module, Hooked) else y
            )
        else:
            self.handle.remove()


class Directs(nn.Module):
    """Switches something on for one of its layers."""

    def __init__(self, kind: type[Layer], switch: Callable[[bool], None]) -> None:
        super().__init__()
        self.layers, self.switch = nn.ModuleList(kind() for _ in range(LAYERS)), switch

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            if index == ODD:
                self.switch(True)
            x = layer(x)
            if index == ODD:
                self.switch(False)
        return x


@pytest.mark.parametrize(
    ("kind", "switch"),
    [
        (EntersItself, _set_global("LIMIT", 2.0)), (AsksItself, _set_global("LIMIT", 2.0)),
        (AsksThroughFunction, _set_global("LIMIT", 2.0)), (AsksMetaclass, _set_global("LIMIT", 2.0)),
        (MayBeThere, _set_global("FLAG", None)), (MayHaveLimit, _set_on_class(MayHaveLimit)),
        (Shadowed, _set_on_class(Shadowed)), (Calls, _other_function), (Hooked, Hooks()),
    ],
    ids=lambda item: item.__name__ if isinstance(item, type) else "",
)  # fmt: skip
def test_the_one_that_is_different_is(kind: type[Layer], switch: Callable[[bool], None]) -> None:
    model = Directs(kind, switch).eval()
    captured = pipeline.capture(model, (SMALL,))
    for x in (SMALL, LARGE):
        assert torch.allclose(model(x), captured(x), atol=1e-4)


class Adds(Layer):
    """Adds to a list that it is given."""

    def forward(self, x: Tensor, losses: list[Tensor]) -> Tensor:
        y: Tensor = self.linear(x)
        with torch.profiler.record_function("loss"):
            losses += [F.relu(y - 2)]
        return y


class Collects(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Adds() for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(4)
        for layer in self.layers:
            losses: list[Tensor] = []
            x = layer(x, losses)
            total = total + sum(loss.sum(0) for loss in losses)
        return x + total


class WithoutLength(Collects):
    def __len__(self) -> int:
        raise NotImplementedError


@pytest.mark.parametrize("model", [Collects(6), Collects(LAYERS), WithoutLength(LAYERS)])
def test_layers_that_add_to_what_they_are_given_run(model: nn.Module) -> None:
    captured = pipeline.capture(model.eval(), (SMALL,))
    for x in (SMALL, LARGE):
        assert torch.allclose(model(x), captured(x), atol=1e-4)
