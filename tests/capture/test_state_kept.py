"""State that forward changes in ways that leave few traces: captured right, and the user's world is as it was."""

from __future__ import annotations

import array
import contextvars
import copy
import types
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import pipeline
from fxquant.capture.copy_module import copy_module

COUNTS = np.zeros(2)
SPACE = types.SimpleNamespace(calls=0, seen=[0.0])
NORM = nn.BatchNorm1d(4)
NOISE = torch.Generator().manual_seed(1)
SCALE: contextvars.ContextVar[float] = contextvars.ContextVar("scale", default=1.0)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)


class DataScaled(Layer):
    def forward(self, x: Tensor) -> Any:
        self.linear.weight.data.mul_(0.9)
        return self.linear(x)


class DataSet(Layer):
    def forward(self, x: Tensor) -> Any:
        self.linear.weight.data = F.normalize(self.linear.weight.data, dim=1) * 0.9
        return self.linear(x)


class WeightClamped(Layer):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            self.linear.weight.clamp_(-0.1, 0.1)
        return self.linear(x)


class RowCleared(Layer):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            self.linear.weight[0] = 0
        return self.linear(x)


class Momentum(Layer):
    """Keys follow queries, as in contrastive learning."""

    def __init__(self) -> None:
        super().__init__()
        self.key = copy.deepcopy(self.linear)
        self.register_buffer("queue", torch.zeros(4, 8))
        self.register_buffer("place", torch.zeros(1, dtype=torch.long))

    def forward(self, x: Tensor) -> Any:
        query = self.linear(x)
        with torch.no_grad():
            for mine, its in zip(self.linear.parameters(), self.key.parameters(), strict=True):
                its.data = its.data * 0.5 + mine.data * 0.25
            key = self.key(x)
        scores = query @ self.queue.clone()
        start = int(self.place)
        self.queue[:, start : start + 2] = key[:2].T
        self.place[0] = (start + 2) % 8
        return scores, (query * key).sum(1)


class ArrayState(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log = np.zeros(4, np.float32), {"rows": np.zeros(3)}

    def forward(self, x: Tensor) -> Any:
        self.mean += x.detach().numpy().mean(0)
        self.log["rows"][0] += 1
        return self.linear(x) + torch.from_numpy(self.mean) + float(self.log["rows"][0])


class Bytes(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.calls, self.sums = bytearray(1), array.array("d", [0.0])

    def forward(self, x: Tensor) -> Any:
        self.calls[0] += 1
        self.sums[0] += 0.5
        return self.linear(x) * self.calls[0] + self.sums[0]


class LooseTensor(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.scales = [torch.ones(4)]

    def forward(self, x: Tensor) -> Any:
        self.scales[0].data.mul_(0.5)
        return self.linear(x) * self.scales[0]


class Gradient(Layer):
    def forward(self, x: Tensor) -> Any:
        weight = self.linear.weight
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad += 1
        return self.linear(x) * weight.grad.mean()


class Drawn(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.generator, self.steps = torch.Generator().manual_seed(3), iter(range(100))

    def forward(self, x: Tensor) -> Any:
        noise = torch.rand(4, generator=self.generator)
        return self.linear(x) + noise * next(self.steps)


class Turn(Layer):
    def __init__(self, steps: Any) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> Any:
        return self.linear(x) + next(self.steps)


class TakesTurns(nn.Module):
    """Layers that have an iterator in common."""

    def __init__(self) -> None:
        super().__init__()
        steps = iter(range(100))
        self.layers = nn.Sequential(*(Turn(steps) for _ in range(3)))

    def forward(self, x: Tensor) -> Any:
        return self.layers(x)


class InTuple(Layer):
    """Keeps what changes in a list that is in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: tuple[list[int]] = ([],)

    def forward(self, x: Tensor) -> Any:
        self.kept[0].append(1)
        return self.linear(x) * len(self.kept[0])


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Any:
        self.mean = self.mean * 0.5 + x.mean(0)
        return x - self.mean


class CopiedShallow(nn.Module):
    """Two modules that have their dictionaries in common."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Norm()
        self.second = copy.copy(self.first)

    def forward(self, x: Tensor) -> Any:
        return self.second(self.first(x))


class RowOfWeight(Layer):
    """A buffer in the memory of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("row", self.linear.weight.data[0])

    def forward(self, x: Tensor) -> Any:
        self.row.mul_(0.5)
        return self.linear(x)


class Hooks(nn.Module):
    """Registers a hook at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        self.layer.register_forward_hook(_doubled)
        return self.layer(x)


def _doubled(module: nn.Module, args: Any, result: Tensor) -> Tensor:
    return result * 2


class Scored(Layer):
    """Reads a list that the module around it fills."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = [1.0]

    def forward(self, x: Tensor) -> Any:
        return self.linear(x) * sum(self.weights)


class FillsAChild(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"first": Scored(), "second": Scored()})

    def forward(self, x: Tensor) -> Any:
        x = self.inner["first"](x)
        self.inner["second"].weights.append(2.0)
        return self.inner["second"](x)


class InEvaluation(Layer):
    """Writes after it read, where gradients are off: one call shows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rate", torch.ones(4))

    def forward(self, x: Tensor) -> Any:
        result = self.linear(x) * self.rate
        if not torch.is_grad_enabled():
            self.rate.mul_(0.5)
        return result


class Unused(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.generator, self.steps = torch.Generator(), iter(range(100))

    def forward(self, x: Tensor) -> Any:
        return self.linear(x)


class OfTheFile(Layer):
    def forward(self, x: Tensor) -> Any:
        COUNTS[0] += 1
        SPACE.calls += 1
        SPACE.seen[0] += 0.5
        scale = SCALE.get()
        SCALE.set(scale * 0.5)
        return NORM(self.linear(x)) * COUNTS[0] + SPACE.seen[0] + SPACE.calls + torch.rand(4, generator=NOISE) + scale


def _world() -> Any:
    held = COUNTS.copy(), vars(SPACE).copy(), list(SPACE.seen), NORM.state_dict(), NOISE.get_state(), SCALE.get()
    return copy.deepcopy(held)


def _restore(world: Any) -> None:
    COUNTS[:], attributes, SPACE.seen[:], norm, noise, scale = copy.deepcopy(world)
    SPACE.calls = attributes["calls"]
    NORM.load_state_dict(norm)
    NOISE.set_state(noise)
    SCALE.set(scale)


def _results(model: Any, calls: list[Tensor]) -> list[Any]:
    with torch.no_grad():
        return [model(x.clone()) for x in calls]


@pytest.mark.parametrize(
    "make",
    [DataScaled, DataSet, WeightClamped, RowCleared, Momentum, ArrayState, Bytes, LooseTensor, Gradient, Drawn,
     TakesTurns, InTuple, CopiedShallow, Hooks, FillsAChild, InEvaluation, Unused,
     OfTheFile],
)  # fmt: skip
def test_calls_in_a_row_are_those_of_eager(make: type[nn.Module]) -> None:
    model, x, world = make().eval(), torch.randn(4, 4), _world()
    before = copy.deepcopy(model.state_dict())
    captured = pipeline.capture(model, (x,))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for mine, was in zip(_flat(_world()), _flat(world), strict=True):
        np.testing.assert_array_equal(mine, was)
    calls = [x, x * 2, -x, x]
    expected = _results(copy.deepcopy(model), calls)
    _restore(world)
    found = _results(captured, calls)
    _restore(world)
    torch.testing.assert_close(found, expected)


def _flat(structure: Any) -> list[Any]:
    if isinstance(structure, dict):
        return [leaf for item in structure.values() for leaf in _flat(item)]
    if isinstance(structure, (list, tuple)):
        return [leaf for item in structure for leaf in _flat(item)]
    return [structure]


def test_what_is_only_held_costs_nothing() -> None:
    model = Unused().eval()
    steps = model.steps
    captured = pipeline.capture(model, (torch.randn(4, 4),))
    assert not captured.state.capture_notes and model.steps is steps and next(steps) == 0


class Writes(Layer):
    """NumPy's functions that write into what they are given."""

    def forward(self, x: Tensor) -> Any:
        rows = x.detach().numpy().copy()
        np.clip(rows, 0, 1, out=rows)
        np.copyto(rows, 0.25, where=rows == 0)
        np.fill_diagonal(rows, -1)
        np.putmask(rows, rows == 1, 7)
        return self.linear(torch.from_numpy(rows))


class Levels(Layer):
    """A list that is as long as sizes make it, with an element more in front."""

    def forward(self, x: Tensor) -> Any:
        x, levels = self.linear(x), list[Tensor]()
        while x.shape[1] > 1:
            if x.shape[1] % 2:
                x = torch.cat([x, x[:, -1:]], 1)
            levels.append((x[:, ::2] - x[:, 1::2]).mean(1))
            x = (x[:, ::2] + x[:, 1::2]) / 2
        return torch.stack([x[:, 0], *levels] if not levels else [x[:, 0]] + levels).sum(0)  # noqa: RUF005


def test_functions_of_numpy_that_write_are_recorded() -> None:
    model = Writes().eval()
    captured = pipeline.capture(model, (torch.randn(4, 4),))
    for x in (torch.randn(4, 4), torch.randn(6, 4) * 3):
        torch.testing.assert_close(captured(x), model(x))


def test_lists_made_of_a_list_of_any_length() -> None:
    model = Levels().eval()
    captured = pipeline.capture(model, (torch.randn(2, 6, 4),))
    for length in (6, 7, 16, 3, 1):
        x = torch.randn(2, length, 4)
        torch.testing.assert_close(captured(x), model(x))


def test_a_buffer_in_the_memory_of_a_parameter_stays_there() -> None:
    model, calls = RowOfWeight().eval(), [torch.randn(2, 4), torch.ones(2, 4)]
    captured = pipeline.capture(model, (calls[0],))
    found = _results(captured, calls)
    torch.testing.assert_close(found, _results(model, calls))  # a deep copy would take them apart


def test_the_sign_of_a_negated_view_is_copied() -> None:
    module = nn.Module()
    module.register_buffer("imaginary", torch.randn(4, dtype=torch.complex64).conj().imag)
    assert torch.equal(copy_module(module).imaginary, module.imaginary)
