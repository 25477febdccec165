"""Graphs called beside eager: on the example, on other values, and again and again."""

from __future__ import annotations

import collections
import contextvars
import copy
import functools
import io
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import pipeline
from fxquant.capture.copy_module import copy_module
from fxquant.errors import CaptureError, FxquantError
from fxquant.ir.float_part import FloatPart


class Layer(nn.Module):
    """The layer around what is tried. Its rows have positive sums for positive inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
        nn.init.eye_(self.first.weight)
        self.register_buffer("mean", torch.zeros(4))
        self.calls, self.scale = 0, 1.0
        self.queue: collections.deque[int] = collections.deque(maxlen=6)


POSITIVE, NEGATIVE = torch.ones(2, 4), -torch.ones(2, 4)


def call(model: nn.Module, *inputs: Any) -> Any:
    """What a model gives from a seeded random state."""
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    with torch.no_grad():
        return model(*copy.deepcopy(inputs))


def compare(make: Callable[[], nn.Module], example: tuple[Any, ...], *calls: tuple[Any, ...]) -> nn.Module:
    """Capture, and call the graph beside eager, one call after the other."""
    model = make().eval()
    eager, graph = copy_module(model), pipeline.capture(model, example)
    for given in (example, *calls, example):
        torch.testing.assert_close(call(graph, *given), call(eager, *given), rtol=0, atol=0)
    return graph


# -- what a part that runs as Python changes ----------------------------------------------------------


class UpdatesByMethod(Layer):
    """A method, called as a statement, sets what is read after it."""

    def update(self, y: Tensor) -> None:
        if y.sum() > 0:
            self.mean = self.mean * 0.9 + y.mean(0)
            self.scale = float(y.max())

    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        self.update(y)
        return self.last(y) + self.mean, self.scale


class Collector:
    """An object that forward makes."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        self.kept.append(x)


class FillsObject(Layer):
    def forward(self, x: Tensor) -> Any:
        found, y = Collector(), self.first(x)
        found.add(y)
        if (y > 0).all():
            found.add(y * 5)
        return sum(item.sum() for item in found.kept) + len(found.kept)


class FillsSet(Layer):
    def forward(self, x: Tensor) -> Any:
        names, y = set[str](), self.first(x)
        if y.sum() > 0:
            names.add("positive")
        return self.last(y) * (1 + len(names))


class DrawsFromIterator(Layer):
    def forward(self, x: Tensor) -> Any:
        y, steps = self.first(x), iter([2.0, 3.0])
        if y.sum() > 0:
            y = y * next(steps)
        return y * next(steps)


@pytest.mark.parametrize("kind", [UpdatesByMethod, FillsObject, FillsSet, DrawsFromIterator])
@pytest.mark.parametrize("example", [POSITIVE, NEGATIVE])
def test_what_a_part_changes_is_seen_after_it(kind: type[nn.Module], example: Tensor) -> None:
    compare(kind, (example,), (POSITIVE,), (2 * NEGATIVE,), (3 * POSITIVE,))


class Expert(Layer):
    def forward(self, x: Tensor, losses: list[Tensor]) -> Tensor:
        y = self.first(x)
        if y.mean() > 0:
            losses.append(y.mean())
        return self.last(y)


class Experts(nn.Module):
    """Hands a list to its children, which add to it for some values."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList((Expert(), Expert()))

    def forward(self, x: Tensor) -> Any:
        losses: list[Tensor] = []
        for expert in self.experts:
            x = expert(x, losses)
        return x, sum(losses) if losses else 0.0


def test_a_part_that_changes_what_its_caller_holds_says_so() -> None:
    model = Experts().eval()
    graph = pipeline.capture(model, (NEGATIVE * 50,))
    torch.testing.assert_close(call(graph, NEGATIVE * 50), call(model, NEGATIVE * 50))
    with pytest.raises(FxquantError, match="changes the list 'losses' for these inputs"):
        graph(POSITIVE * 50)
    compare(Experts, (POSITIVE * 50,), (POSITIVE * 70,))


# -- random numbers -----------------------------------------------------------------------------------


class Seeds(Layer):
    def forward(self, x: Tensor) -> Any:
        torch.manual_seed(42)
        return self.last(x) * (torch.rand(4) > 0.3)


class ForksState(Layer):
    def forward(self, x: Tensor) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            noise = torch.randn_like(x)
        return self.last(x) + noise + torch.rand(4)


class SeedsNumpy(Layer):
    def forward(self, x: Tensor) -> Any:
        np.random.seed(3)
        return self.last(x) * np.random.rand()


class MakesGenerator(Layer):
    def forward(self, x: Tensor) -> Any:
        generator = torch.Generator().manual_seed(3)
        return self.last(x)[:, torch.randperm(4, generator=generator)]


class DropsDraw(Layer):
    def forward(self, x: Tensor) -> Any:
        torch.randn_like(x)
        return self.last(x) * torch.rand(x.shape[0], 1) + random.random()


@pytest.mark.parametrize("kind", [Seeds, ForksState, SeedsNumpy, MakesGenerator, DropsDraw])
def test_random_states_are_those_of_eager(kind: type[nn.Module]) -> None:
    compare(kind, (POSITIVE,), (NEGATIVE,))


class TakesGenerator(Layer):
    def forward(self, x: Tensor, generator: torch.Generator) -> Any:
        return self.last(x) + torch.randn(x.shape, generator=generator)


def test_generators_among_the_inputs() -> None:
    model = TakesGenerator().eval()
    graph = pipeline.capture(model, (POSITIVE, torch.Generator()))
    for seed in (1, 2):
        generators = [torch.Generator().manual_seed(seed) for _ in range(2)]
        assert torch.equal(graph(POSITIVE, generators[0]), model(POSITIVE, generators[1]))


# -- what a tracer does not see -----------------------------------------------------------------------


class Copies(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        kept = copy.deepcopy(y.detach())
        y[:, 0] = 9.0
        return self.last(y) + kept


@functools.singledispatch
def doubled(value: Any) -> Any:
    return value


@doubled.register
def _(value: Tensor) -> Tensor:
    return value * 2


class Dispatches(Layer):
    def forward(self, x: Tensor) -> Any:
        return self.last(doubled(self.first(x)))


class DropsInEval(Layer):
    """Is put into training mode for one call, as for estimates of uncertainty."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Any:
        self.drop.train()
        y = self.drop(self.first(x))
        self.drop.eval()
        return self.last(y)


class HookedNorm(nn.Module):
    """What a hook of a batch norm adds is added once."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.norm.register_forward_hook(lambda module, args, output: output + 1)

    def forward(self, x: Tensor) -> Any:
        return torch.relu(self.norm(x))


class Swaps(Layer):
    """Is one tensor given twice?"""

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.last(x) * 2 if x is y else self.last(x) + y


@pytest.mark.parametrize("kind", [Copies, Dispatches, DropsInEval, HookedNorm])
def test_what_a_tracer_does_not_see(kind: type[nn.Module]) -> None:
    compare(kind, (POSITIVE,), (NEGATIVE,))


def test_graphs_without_parts_stay_without_parts() -> None:
    graph = compare(HookedNorm, (POSITIVE,), (NEGATIVE,))
    assert not any(isinstance(part, FloatPart) for part in graph.modules())


def test_one_tensor_given_twice() -> None:
    x = torch.randn(2, 4)
    model = Swaps().eval()
    graph = pipeline.capture(model, (x, x))
    assert torch.equal(graph(x, x), model(x, x)) and torch.equal(graph(x, 2 * x), model(x, 2 * x))


class WritesShared(Layer):
    def forward(self, x: Tensor, y: Tensor) -> Any:
        x.add_(1)
        return self.last(y)


def test_inputs_that_share_memory() -> None:
    model, base = WritesShared().eval(), torch.zeros(3, 4)
    graph = pipeline.capture(model, (base[:2], base[1:]))
    first, second = torch.zeros(3, 4), torch.zeros(3, 4)
    assert torch.equal(graph(first[:2], first[1:]), model(second[:2], second[1:]))


# -- state --------------------------------------------------------------------------------------------


class Schedule:
    def __init__(self) -> None:
        self.step = 0

    def advance(self) -> None:
        self.step += 1


class Scheduled(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule()

    def forward(self, x: Tensor) -> Any:
        self.schedule.advance()
        return self.last(x) * (0.5 if self.schedule.step > 5 else 1.0)


class CountsBySetattr(Layer):
    def forward(self, x: Tensor) -> Any:
        setattr(self, "calls", self.calls + 1)  # noqa: B010
        return self.last(x) * (2 if self.calls > 5 else 1)


class Queues(Layer):
    def forward(self, x: Tensor) -> Any:
        self.queue.append(x.shape[0])
        return self.last(x) * (3 if len(self.queue) > 5 else 1)


def tick() -> int:
    tick.count += 1  # type: ignore[attr-defined]
    return tick.count  # type: ignore[attr-defined, no-any-return]


tick.count = 0  # type: ignore[attr-defined]
CALLS = contextvars.ContextVar("CALLS", default=0)


class Ticks(Layer):
    def forward(self, x: Tensor) -> Any:
        return self.last(x) * tick()


class CountsInContext(Layer):
    def forward(self, x: Tensor) -> Any:
        CALLS.set(CALLS.get() + 1)
        return self.last(x) * CALLS.get()


@pytest.mark.parametrize("kind", [Scheduled, CountsBySetattr, Queues])
def test_counters_that_matter_after_some_calls(kind: type[nn.Module]) -> None:
    compare(kind, (POSITIVE,), *[(POSITIVE,)] * 8)


def test_counters_outside_of_the_model() -> None:
    CALLS.set(0)
    for kind, count in ((Ticks, lambda: tick.count), (CountsInContext, CALLS.get)):  # type: ignore[attr-defined]
        model, before = kind().eval(), count()
        graph = pipeline.capture(model, (POSITIVE,))
        assert count() == before
        assert not torch.equal(graph(POSITIVE), graph(POSITIVE))
        fxquant.check_traceable(model, (POSITIVE,))
        assert count() == before + 2


class Logs(Layer):
    """Collects what nothing reads."""

    def forward(self, x: Tensor) -> Any:
        self.queue.append(x.shape[0])
        return self.last(x)


def test_what_nothing_reads_costs_no_int8() -> None:
    graph = compare(Logs, (POSITIVE,), (NEGATIVE,))
    assert not any(isinstance(part, FloatPart) for part in graph.modules())


# -- parameters ---------------------------------------------------------------------------------------


class SumsWeights(Layer):
    def forward(self, x: Tensor) -> Any:
        return self.last(x) + sum(item.pow(2).sum() for item in self.first.parameters())


class Detaches(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        z = y * 2
        z.detach_()
        return y + z


class ParameterHook(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.first.weight.register_hook(lambda gradient: gradient * 3)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Any:
        return self.first(x)


@pytest.mark.parametrize("kind", [SumsWeights, Detaches, ParameterHook])
def test_gradients(kind: type[nn.Module]) -> None:
    model, x = kind().train(), torch.randn(2, 4)
    eager, graph = copy_module(model), pipeline.capture(model, (x,), trains=True)
    for part in (eager, graph):
        part(x).pow(2).sum().backward()
    found, wanted = dict(graph.named_parameters())["first.weight"].grad, eager.get_parameter("first.weight").grad
    torch.testing.assert_close(found, wanted)


# -- what is no tensor --------------------------------------------------------------------------------


def gate(x: Tensor, bias: Tensor) -> Tensor:
    return torch.tanh(x) * torch.sigmoid(x + bias)


with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
    gated = torch.jit.script(gate)
    twice = torch.jit.trace(lambda t: t * 2, torch.randn(2, 4))


class Scripted(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.kept = twice

    def forward(self, x: Tensor) -> Any:
        return self.kept(gated(self.first(x), self.last.bias))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.jit")
def test_functions_of_torchscript() -> None:
    x = torch.randn(2, 4)
    quantized = fxquant.quantize(Scripted().eval(), [(x,)])
    file = io.BytesIO()
    torch.save(quantized, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), quantized(x))


@dataclass
class Config:
    factor: int = 2


class GivesObjects(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.config = Config()

    def forward(self, x: Tensor) -> Any:
        y = self.last(x)
        return y, self.config, doubled, collections.deque([y, y * 2], maxlen=2)


def test_constants_that_are_no_tensors() -> None:
    x = torch.randn(2, 4)
    quantized = fxquant.quantize(GivesObjects().eval(), [(x,)])
    y, config, function, last = quantized(2 * x)
    assert config == Config() and function is doubled and last.maxlen == 2 and torch.equal(last[1], y * 2)


class Takes(Layer):
    def forward(self, x: Tensor, other: Any) -> Any:
        y = self.last(x)
        if isinstance(other, Config):
            return y * other.factor
        return other(y) if callable(other) else y * len(other)


@pytest.mark.parametrize(
    ("example", "alike", "another"),
    [
        (F.relu, F.relu, torch.tanh),
        (functools.partial(F.leaky_relu, negative_slope=0.1), functools.partial(F.leaky_relu, negative_slope=0.1),
         functools.partial(F.leaky_relu, negative_slope=0.9)),
        (nn.ReLU(), nn.ReLU(), nn.Tanh()),
        (Config(2), Config(2), Config(3)),
        ({"a", "b"}, {"b", "a"}, {"a"}),
    ],
)  # fmt: skip
def test_inputs_that_are_no_tensors(example: Any, alike: Any, another: Any) -> None:
    model = Takes().eval()
    graph = pipeline.capture(model, (POSITIVE, example))
    assert torch.equal(graph(NEGATIVE, alike), model(NEGATIVE, alike))
    with pytest.raises(FxquantError, match=r"input 'other' (is another|was 2)"):
        graph(NEGATIVE, another)


def test_iterators_are_refused() -> None:
    with pytest.raises(CaptureError, match="input 'other' is an iterator"):
        pipeline.capture(Takes(), (POSITIVE, iter([1.0])))


class AsksForDtype(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> Any:
        x = image.permute(0, 3, 1, 2)
        if x.dtype == torch.uint8:
            x = x / 255
        return self.conv(x.float())


def test_dtypes_of_what_is_computed_from_inputs() -> None:
    graph = pipeline.capture(AsksForDtype(), (torch.rand(1, 8, 8, 3),))
    with pytest.raises(FxquantError, match=r"asks for what was torch\.float32"):
        graph(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))
