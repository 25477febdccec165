"""Layers whose code may do more than compute on ways that they do not take."""

from __future__ import annotations

import functools
import operator
import os
import sys
import threading
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import pipeline
from fxquant.capture import repeated_layers
from fxquant.capture.contents import Contents
from fxquant.errors import FxquantError
from fxquant.ir.float_part import FloatPart

LAYERS, ODD = 14, 9
WIDE, NARROW = 1e5, 2.0
SMALL, LARGE = 0.1 * torch.randn(2, 6, 4), 50 * torch.randn(3, 6, 4)
REGISTRY = {"clip": F.hardtanh}
LIMITS = {"limit": WIDE}


class Layer(nn.Module):
    """Clips at a limit, and would count its calls if it were told to."""

    counting = False
    in_class = WIDE

    def __init__(self, odd: bool = False) -> None:
        super().__init__()
        self.count = 0
        self.linear = nn.Linear(4, 4)
        nn.init.orthogonal_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.limit = NARROW if odd else WIDE
        self.hold(odd)

    def hold(self, odd: bool) -> None:
        pass

    def clipped(self, x: Tensor, limit: float) -> Tensor:
        if self.counting:
            self.count += 1
        return F.hardtanh(self.linear(x), -limit, limit)

    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, WIDE)


class Caches(Layer):
    """As decoders do it: a cache that is not given, and a number of the layer that only the cache would ask for."""

    numbers = iter(range(1000))

    def hold(self, odd: bool) -> None:
        self.layer_idx = next(self.numbers)

    def forward(self, x: Tensor, cache: dict[str, Any] | None = None) -> Tensor:
        y = self.clipped(x, WIDE)
        if cache is not None:
            cache[self.layer_idx] = y
        return y


class Config:
    """Finds some attributes under other names."""

    names = {"bound": "limit"}  # noqa: RUF012

    def __init__(self, limit: float) -> None:
        self.limit, self.width = limit, 4

    def __getattribute__(self, name: str) -> Any:
        names = super().__getattribute__("names")
        return super().__getattribute__(names.get(name, name))


class Configured(Layer):
    config = Config(WIDE)

    def hold(self, odd: bool) -> None:
        self.shared = self.config

    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, self.shared.bound)


class ByConfig(Layer):
    config = Config(WIDE)

    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, self.config.bound)


class OwnConfigured(Layer):
    def hold(self, odd: bool) -> None:
        self.config = Config(NARROW if odd else WIDE)

    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, self.config.bound)


class Registered(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = REGISTRY["clip"](self.clipped(x, WIDE), -WIDE, WIDE)
        return y


class Sized(Layer):
    """Asks for a size."""

    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, WIDE) if x.shape[1] > 2 else x


def _counted(function: Any) -> Any:
    calls = [0]

    @functools.wraps(function)
    def call(self: Layer, *args: Any) -> Any:
        if self.counting:
            calls[0] += 1
        return function(self, *args)

    return call


class Decorated(Layer):
    @_counted
    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, WIDE)


AGAIN = [Layer, Caches, Configured, ByConfig, Registered, Sized, Decorated]


class ByNumber(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, self.limit)


class ByComputedName(Layer):
    key = "limit"

    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, getattr(self, self.key))


class ByName(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, getattr(self, "limit", WIDE))


class ByGetter(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, operator.attrgetter("limit")(self))


class ByText(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, NARROW if "{.limit}".format(self) == "2.0" else WIDE)  # noqa: UP032


class ByProperty(Layer):
    @property
    def bound(self) -> float:
        return self.limit

    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, self.bound)


class BySubclass(Layer):
    """Is of a class of its own where it is odd."""

    def hold(self, odd: bool) -> None:
        if odd:
            self.__class__ = Narrow

    def bound(self) -> float:
        return WIDE

    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, self.bound())


class Narrow(BySubclass):
    def bound(self) -> float:
        return NARROW


class Clip(nn.Module):
    """A part that is plain, and is met often enough to be known before what is around it."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        return F.hardtanh(x, -self.limit, self.limit)


class ByPart(Layer):
    def hold(self, odd: bool) -> None:
        self.parts = nn.ModuleList(Clip(NARROW if odd and index == 7 else WIDE) for index in range(8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.clipped(x, WIDE)
        for part in self.parts:
            y = part(y)
        return y


GET_LIMIT = operator.attrgetter("limit")


class ByGlobalGetter(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, GET_LIMIT(self))


class ByTextOfName(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, getattr(self, "LIMIT".lower()))


class ByGetterOfClass(Layer):
    get = getattr

    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, type(self).get(self, "limit"))


class ByItsAttributes(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, vars(self)["limit"])


class Itself:
    """Is not copied with the model."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Itself:
        return self


NARROW_ONE, WIDE_ONE = Itself(), Itself()


class ByIdentity(Layer):
    def hold(self, odd: bool) -> None:
        self.which = NARROW_ONE if odd else WIDE_ONE

    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, NARROW if self.which is NARROW_ONE else WIDE)


def _limited(self: Layer, x: Tensor) -> Tensor:
    return self.clipped(x, LIMIT_OF_FILE)  # noqa: F821


class ByFile(Layer):
    """Has one function, in two files."""

    wide, narrow = (FunctionType(_limited.__code__, {"LIMIT_OF_FILE": limit}) for limit in (WIDE, NARROW))

    def hold(self, odd: bool) -> None:
        self.is_odd = odd

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.narrow(x) if self.is_odd else self.wide(x)
        return result


DIFFERS: list[type[Layer]] = [
    ByGlobalGetter, ByTextOfName, ByGetterOfClass, ByItsAttributes, ByIdentity, ByFile,
    ByNumber, ByComputedName, ByName, ByGetter, ByText, ByProperty, BySubclass, ByPart, OwnConfigured,
]  # fmt: skip


def _narrow_function(x: Tensor, low: float, high: float) -> Tensor:
    return F.hardtanh(x, -NARROW, NARROW)


def _set_limit(limit: float) -> None:
    LIMITS["limit"] = limit


class ByGlobal(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, LIMITS["limit"])


class ByClass(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, self.in_class)


class ByEnvironment(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, float(os.environ.get("LIMIT_OF_TEST", "1e5")))


FILE = ModuleType("file_of_test")
FILE.__file__, FILE.limit = __file__, WIDE  # type: ignore[attr-defined]


class ByModule(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, FILE.limit)


class ByDefault(Layer):
    def forward(self, x: Tensor, limit: float = WIDE) -> Tensor:
        return self.clipped(x, limit)


def _with_limit(function: Any) -> Any:
    limit = WIDE

    def call(self: Layer, x: Tensor) -> Any:
        return function(self, x, limit)

    def change(to: float) -> None:
        nonlocal limit
        limit = to

    call.change = change  # type: ignore[attr-defined]
    return call


class ByClosure(Layer):
    @_with_limit
    def forward(self, x: Tensor, limit: float) -> Tensor:
        return self.clipped(x, limit)


class Settings:
    limit = WIDE


SETTINGS = Settings()


class ByClassOfGlobal(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, SETTINGS.limit)


class ByNewAttribute(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, getattr(self, "narrower", WIDE))


class ByBuffer(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.clipped(x, NARROW if NUMBERS[0] else WIDE)


NUMBERS = bytearray(1)


def _set_new(narrow: bool) -> None:
    if narrow:
        ByNewAttribute.narrower = NARROW  # type: ignore[attr-defined]
    elif "narrower" in vars(ByNewAttribute):
        del ByNewAttribute.narrower  # type: ignore[attr-defined]


def _swap(narrow: bool) -> None:
    REGISTRY["clip"] = _narrow_function if narrow else F.hardtanh


def _set_environment(narrow: bool) -> None:
    if narrow:
        os.environ["LIMIT_OF_TEST"] = "2.0"
    else:
        os.environ.pop("LIMIT_OF_TEST", None)


SWITCHES: dict[type[Layer], Callable[[bool], None]] = {
    ByGlobal: lambda narrow: _set_limit(NARROW if narrow else WIDE),
    ByClass: lambda narrow: setattr(ByClass, "in_class", NARROW if narrow else WIDE),
    Registered: _swap,
    ByConfig: lambda narrow: setattr(ByConfig.config, "limit", NARROW if narrow else WIDE),
    ByEnvironment: _set_environment,
    ByModule: lambda narrow: setattr(FILE, "limit", NARROW if narrow else WIDE),
    ByDefault: lambda narrow: setattr(ByDefault.forward, "__defaults__", (NARROW if narrow else WIDE,)),
    ByClosure: lambda narrow: ByClosure.forward.change(NARROW if narrow else WIDE),
    ByClassOfGlobal: lambda narrow: setattr(Settings, "limit", NARROW if narrow else WIDE),
    ByNewAttribute: _set_new,
    ByBuffer: lambda narrow: NUMBERS.__setitem__(0, int(narrow)),
}


class Stack(nn.Module):
    """Layers of one class; what they have in common may be switched for one of them."""

    def __init__(self, kind: type[Layer], odd: bool = False, switch: Callable[[bool], None] | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(kind(odd and index == ODD) for index in range(LAYERS))
        self.switch = switch or (lambda narrow: None)

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            self.switch(index == ODD)
            x = layer(x)
        self.switch(False)
        return x


class Shrinks(nn.Module):
    """Layers that ask for a size, which is another one in each."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Sized() for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)[:, 1:]
        return x


def _text(captured: Any) -> list[str]:
    return [f"{node.format_node()} {node.args}" for node in captured.graph.nodes]


@pytest.mark.parametrize("kind", AGAIN)
def test_the_graph_is_that_of_a_trace_of_each(
    kind: type[Layer], again: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Stack(kind).eval()
    first = pipeline.capture(model, (SMALL,))
    assert len([path for path in again if path.startswith("layers.") and path.count(".") == 1]) >= LAYERS - 7
    monkeypatch.setattr(repeated_layers, "_ALIKE", 10**9)
    each = pipeline.capture(model, (SMALL,))
    assert _text(first) == _text(each)
    assert first.state.facts == each.state.facts
    for x in (SMALL, LARGE):
        assert torch.allclose(model(x), first(x), atol=1e-4)
    assert sys.gettrace() is None


@pytest.mark.parametrize("kind", DIFFERS)
def test_a_layer_that_differs_is_noticed(kind: type[Layer]) -> None:
    model = Stack(kind, odd=True).eval()
    captured = pipeline.capture(model, (SMALL,))
    assert not torch.allclose(model(LARGE), Stack.forward(_all_wide(model), LARGE))
    for x in (SMALL, LARGE):
        assert torch.allclose(model(x), captured(x), atol=1e-4)


def _all_wide(model: Stack) -> Any:
    """The model without what makes one layer differ."""
    wide = Stack(type(model.layers[0])).eval()  # type: ignore[arg-type]
    wide.load_state_dict(model.state_dict())
    return wide


@pytest.mark.parametrize("kind", SWITCHES)
def test_what_is_changed_around_one_layer(kind: type[Layer]) -> None:
    model = Stack(kind, switch=SWITCHES[kind]).eval()
    captured = pipeline.capture(model, (SMALL,))
    for x in (SMALL, LARGE):
        assert torch.allclose(model(x), captured(x), atol=1e-4)


def test_sizes_that_differ_from_layer_to_layer() -> None:
    model = Shrinks().eval()
    example = 0.1 * torch.randn(2, 20, 4)
    captured = pipeline.capture(model, (example,))
    assert torch.allclose(model(example), captured(example), atol=1e-4)
    for length in (18, 16, 12):
        x = torch.randn(2, length, 4)
        try:
            found = captured(x)
        except FxquantError:
            continue
        assert torch.allclose(model(x), found, atol=1e-4)


def test_a_debugger_goes_on() -> None:
    seen: set[str] = set()

    def look(frame: Any, event: str, given: Any) -> None:
        seen.add(frame.f_code.co_name)

    before = sys.gettrace()
    sys.settrace(look)
    try:
        captured = pipeline.capture(Stack(Caches).eval(), (SMALL,))
        assert sys.gettrace() is look
    finally:
        sys.settrace(before)
    assert "clipped" in seen
    assert captured(LARGE).shape == LARGE.shape


class Watches(nn.Module):
    """Begins to watch its layers, as profilers do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ByNumber(index == ODD) for index in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        before = sys.gettrace()
        for index, layer in enumerate(self.layers):
            sys.settrace(before if index < 2 else lambda frame, event, given: None)
            x = layer(x)
        sys.settrace(before)
        return x


def test_a_model_that_watches_by_itself() -> None:
    model = Watches().eval()
    captured = pipeline.capture(model, (SMALL,))
    for x in (SMALL, LARGE):
        assert torch.allclose(model(x), captured(x), atol=1e-4)


def test_nothing_is_watched_after_an_error() -> None:
    class Fails(Layer):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no")

    with pytest.raises(FxquantError):
        pipeline.capture(Stack(Fails).eval(), (SMALL,))
    assert sys.gettrace() is None


class HoldsSequential(Layer):
    def hold(self, odd: bool) -> None:
        self.several = nn.ModuleList(nn.Sequential(nn.LayerNorm(4), nn.ReLU()) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        for each in self.several:
            x = each(x)
        return self.clipped(x, WIDE)


def test_containers_of_torch_in_watched_layers_are_recorded() -> None:
    graph = pipeline.capture(Stack(HoldsSequential).eval(), (SMALL,))
    assert not any(isinstance(part, FloatPart) for part in graph.modules())


def test_other_threads_are_not_watched() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(pipeline.capture(Stack(Caches).eval(), (SMALL,))))
    thread.start()
    thread.join()
    assert found[0](LARGE).shape == LARGE.shape


def _returning(value: float) -> Callable[[], float]:
    return lambda: value


def test_what_several_functions_keep_is_read_of_each() -> None:
    functions = [_returning(value) for value in (1.0, 2.0, 3.0, 4.0)]
    before = Contents().of(functions)
    assert Contents().of(functions) == before
    functions[2].__closure__[0].cell_contents = 9.0  # type: ignore[index]
    assert Contents().of(functions) != before
