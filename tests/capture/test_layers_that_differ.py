"""Of many layers that look alike, one does something else, on other values only: that is seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
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


@dataclass
class Config:
    limit: float = 1e5
    half: Any = None

    @property
    def bound(self) -> float:
        return LIMIT

    @property
    def known(self) -> float:
        return self.limit


class Loose:
    """Answers for whatever is asked."""

    def __getattr__(self, name: str) -> float:
        if name.startswith("__"):
            raise AttributeError(name)
        return LIMIT


class Mapping(dict[str, float]):
    pass


class Configured(Layer):
    """Layers that have an object in common."""

    make: Callable[[], Any] = Config

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self, x: Tensor) -> Tensor:
        return self.limited(x, self.config.limit)


class ByProperty(Configured):
    def forward(self, x: Tensor) -> Tensor:
        return self.limited(x, self.config.known)


class ByGlobal(Configured):
    def forward(self, x: Tensor) -> Tensor:
        return self.limited(x, self.config.bound)


class ByLoose(Configured):
    make = Loose


class BySpace(Configured):
    make = staticmethod(lambda: SimpleNamespace(limit=1e5))


class ByItem(Configured):
    make = staticmethod(lambda: Mapping(limit=1e5))

    def forward(self, x: Tensor) -> Tensor:
        return self.limited(x, self.config["limit"])


class ByInner(Configured):
    make = staticmethod(lambda: Config(half=Config()))

    def forward(self, x: Tensor) -> Tensor:
        return self.limited(x, self.config.half.limit)


def _set_limit(config: Any, limit: float) -> None:
    global LIMIT
    if isinstance(config, Loose):
        LIMIT = limit
    elif isinstance(config, Mapping):
        config["limit"] = limit
    elif getattr(config, "half", None) is not None:
        config.half.limit = limit
    else:
        config.limit = LIMIT = limit


class ChangesConfig(nn.Module):
    """Changes what its layers have in common for one of them."""

    def __init__(self, kind: type[Configured]) -> None:
        super().__init__()
        config = kind.make()
        self.layers = nn.ModuleList(kind(config) for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            if index == ODD:
                _set_limit(layer.config, 2.0)
            x = layer(x)
            _set_limit(layer.config, 1e5)
        return x


@pytest.mark.parametrize("kind", [Configured, ByProperty, ByGlobal, ByLoose, BySpace, ByItem, ByInner])
def test_an_object_that_is_another_for_one(kind: type[Configured]) -> None:
    model = ChangesConfig(kind).eval()
    captured = pipeline.capture(model, (SMALL,))
    for x in (SMALL, LARGE):
        assert torch.allclose(model(x), captured(x), atol=1e-4)


class Numbered(Layer):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    @property
    def limit(self) -> float:
        return 2.0 if self.number == ODD else 1e5

    def forward(self, x: Tensor) -> Tensor:
        return self.limited(x, self.limit)


class ByText(Layer):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def extra_repr(self) -> str:
        return "odd" if self.number == ODD else "even"

    def forward(self, x: Tensor) -> Tensor:
        return self.limited(x, 2.0 if "odd" in f"{self}" else 1e5)


class ByPattern(ByText):
    def forward(self, x: Tensor) -> Tensor:
        match self:
            case nn.Module(number=9):
                return self.limited(x, 2.0)
        return self.limited(x, 1e5)


class ByLambda(Numbered):
    def forward(self, x: Tensor) -> Tensor:
        limit = lambda layer: 2.0 if layer.number == 9 else 1e5  # noqa: E731
        return self.limited(x, limit(self))


class ByChild(Layer):
    """Asks the layer in it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.inner = Numbered(number)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return self.inner.limited(y, 2.0 if self.inner.number == 9 else 1e5)


class CallsChild(ByChild):
    """Calls a method of the layer in it."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return self.inner.limited(y, self.inner.limit)


class OwnLinear(nn.Linear):
    def __init__(self, number: int) -> None:
        super().__init__(4, 4)
        self.number = number
        nn.init.orthogonal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return F.hardtanh(y, -2, 2) if self.number == 9 else F.hardtanh(y, -1e5, 1e5)


class HasOwnLinear(Layer):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.inner = OwnLinear(number)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(self.linear(x))
        return y


@pytest.mark.parametrize("kind", [Numbered, ByText, ByPattern, ByLambda, ByChild, CallsChild, HasOwnLinear])
def test_a_number_that_is_read_somewhere(kind: Callable[[int], nn.Module]) -> None:
    model = nn.Sequential(*(kind(index) for index in range(LAYERS))).eval()
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
