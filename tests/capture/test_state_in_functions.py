"""State in functions that modules keep: a graph counts on with it, and the user's model is as it was."""

from __future__ import annotations

import functools
import itertools
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import pipeline
from fxquant.capture import fingerprint
from fxquant.ir.float_part import FloatPart

Hook = Callable[..., Any]


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        return self.linear(x)


class Applies(Layer):
    """Keeps a function as an attribute."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.functions = [function]
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.linear(x))


class AppliesFirst(Applies):
    """Keeps it in a list only."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        del self.function

    def forward(self, x: Tensor) -> Any:
        return self.functions[0](self.linear(x))


class AppliesOfObject(Layer):
    """Keeps it in an object."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.kept = types.SimpleNamespace(function=function)

    def forward(self, x: Tensor) -> Any:
        return self.kept.function(self.linear(x))


class CountsRows(Layer):
    """Remembers what a function gave, which counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

        @functools.lru_cache
        def number(rows: int) -> int:
            self.asked += 1
            return self.asked

        self.number = number

    def forward(self, x: Tensor) -> Any:
        return self.linear(x) * self.number(x.shape[0])


class RemembersMethod(Layer):
    """Remembers what a method gave."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.cached = functools.cache(self.number)

    def number(self, rows: int) -> int:
        self.asked += 1
        return self.asked

    def forward(self, x: Tensor) -> Any:
        return self.linear(x) * self.cached(x.shape[0])


class Steps:
    """An object of the user's, whose method is kept."""

    def __init__(self) -> None:
        self.calls = 0

    def step(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls

    def hook(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return self.step(output)


def variable() -> Any:
    calls = 0

    def scale(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x * calls

    return scale


def container() -> Any:
    kept = {"calls": [0]}

    def scale(x: Tensor) -> Tensor:
        kept["calls"][0] += 1
        return x * kept["calls"][0]

    return scale


def drawn() -> Any:
    numbers = itertools.count(1)
    return lambda x: x * next(numbers)


def mean() -> Any:
    kept = torch.zeros(4)

    def scale(x: Tensor) -> Tensor:
        nonlocal kept
        kept = kept * 0.5 + x.detach().mean(0)
        return x - kept

    return scale


def default() -> Any:
    def scale(x: Tensor, calls: list[int] = [0]) -> Tensor:  # noqa: B006
        calls[0] += 1
        return x * calls[0]

    return scale


def keyword_default() -> Any:
    def scale(x: Tensor, *, calls: dict[str, int] = {"n": 0}) -> Tensor:  # noqa: B006
        calls["n"] += 1
        return x * calls["n"]

    return scale


def attribute() -> Any:
    def scale(x: Tensor) -> Tensor:
        scale.calls = getattr(scale, "calls", 0) + 1  # type: ignore[attr-defined]
        return x * scale.calls  # type: ignore[attr-defined]

    return scale


def decorated() -> Any:
    @functools.wraps(torch.relu)
    def counting(x: Tensor) -> Tensor:
        counting.calls += 1  # type: ignore[attr-defined]
        return torch.relu(x) * counting.calls  # type: ignore[attr-defined]

    counting.calls = 0  # type: ignore[attr-defined]
    return counting


def around() -> Any:
    inner = variable()
    return lambda x: inner(x) + 1


def late() -> Any:
    """Changes the result after more calls than anyone tries."""
    calls = 0

    def scale(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x if calls < 8 else x * 2

    return scale


def given() -> Any:
    def scale(kept: dict[str, int], x: Tensor) -> Tensor:
        kept["calls"] += 1
        return x * kept["calls"]

    return functools.partial(scale, {"calls": 0})


def method() -> Any:
    return Steps().step


FUNCTIONS = [
    variable, container, drawn, mean, default, keyword_default, attribute, decorated, around, late, given, method,
]  # fmt: skip


def after(make: Hook) -> nn.Module:
    model, function = Layer(), make()
    model.linear.register_forward_hook(lambda module, args, output: function(output))
    return model


def before(make: Hook) -> nn.Module:
    model, function = Layer(), make()
    model.linear.register_forward_pre_hook(lambda module, args: (function(args[0]),))
    return model


def at_root(make: Hook) -> nn.Module:
    model, function = Layer(), make()
    model.register_forward_hook(lambda module, args, output: function(output))
    return model


def of_object(make: Hook) -> nn.Module:
    model = Layer()
    model.linear.register_forward_hook(Steps().hook)
    return model


def _made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def _results(model: Any, calls: list[Tensor]) -> list[Any]:
    with torch.no_grad():
        return [model(x) for x in calls]


def _require_as_eager(make: Callable[[], nn.Module]) -> None:
    x = torch.randn(4, 4)
    calls = [x, x * 2, -x, x[:2], x[:3], *(x for _ in range(8))]
    expected = _results(_made(make), calls)
    checked, captured = _made(make), _made(make)
    fxquant.check_traceable(checked, (x,))
    torch.testing.assert_close(_results(checked, calls[:1]), expected[:1])
    pipeline.capture(captured, (x,))
    torch.testing.assert_close(_results(captured, calls[:1]), expected[:1])
    graph = pipeline.capture(_made(make), (x,))
    torch.testing.assert_close(_results(graph, calls), expected)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", [Applies, AppliesFirst, AppliesOfObject])
def test_functions_that_modules_keep_count_on(kind: Any, function: Hook) -> None:
    _require_as_eager(lambda: kind(function()))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("register", [after, before, at_root])
def test_hooks_count_on(register: Any, function: Hook) -> None:
    _require_as_eager(lambda: register(function))


@pytest.mark.parametrize("make", [CountsRows, RemembersMethod, lambda: of_object(variable)])
def test_what_functions_and_objects_remember(make: Any) -> None:
    _require_as_eager(make)


def test_a_count_that_nobody_reads_keeps_nothing_whole() -> None:
    model, counts, x = Layer().eval(), {"calls": 0}, torch.randn(4, 4)

    def count(module: nn.Module, args: Any, output: Tensor) -> None:
        counts["calls"] += 1

    model.linear.register_forward_hook(count)
    captured = pipeline.capture(model, (x,))
    assert not any(isinstance(part, FloatPart) for part in captured.modules()) and counts == {"calls": 0}


def _reads_of_what_hooks_keep(layers: int, monkeypatch: pytest.MonkeyPatch) -> int:
    model, kept, reads = nn.Sequential(*(Layer() for _ in range(layers))).eval(), dict[int, Tensor](), list[int]()
    for number, layer in enumerate(model):
        layer.register_forward_hook(lambda module, args, output, number=number: kept.update({number: output}))
    read = fingerprint._fingerprint_of_tensor
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "_fingerprint_of_tensor", lambda *args: reads.append(1) or read(*args))
        pipeline.capture(model, (torch.randn(2, 4),))
    assert not kept
    return len(reads)


def test_what_hooks_keep_is_not_read_after_every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the layers, twice the reads; after every line it would be four times."""
    few, many = _reads_of_what_hooks_keep(20, monkeypatch), _reads_of_what_hooks_keep(40, monkeypatch)
    assert many < 2.5 * few
