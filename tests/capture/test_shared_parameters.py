"""Copies of a model have its parameters by copy on write: what forward writes is found, and nobody else gets it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import convert_fx, get_default_qconfig_mapping, pipeline, prepare_fx
from fxquant.capture import attempt
from fxquant.ir.copy_on_write import copied_on_write, is_copied_on_write
from fxquant.ir.meta import storage_of

X = torch.linspace(-1, 1, 12).view(3, 4)


class Square(nn.Module):
    """A layer of a square weight."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.other = nn.Linear(4, 4), nn.Linear(4, 4)


class Adds(Square):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.linear.weight.add_(0.5)
        y: Tensor = self.linear(x)
        return y


class ThroughViews(Square):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            row = self.linear.weight[0]
            self.linear.weight.mul_(2)
            column = self.linear.weight[:, 0]
            self.linear.weight.add_(0.5)
            return x * row + column


class DataAdds(Square):
    def forward(self, x: Tensor) -> Tensor:
        self.linear.weight.data.add_(0.5)
        y: Tensor = self.linear(x)
        return y


class Transposes(Square):
    """Its memory is as it was."""

    def forward(self, x: Tensor) -> Tensor:
        self.linear.weight.data = self.linear.weight.data.t()
        y: Tensor = self.linear(x)
        return y


class TakesOthers(Square):
    """The memory that it has afterwards was not written into, and is another's."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        self.linear.weight.data = self.other.weight.data
        return y + self.other(x)


class WritesAndReplaces(Square):
    """Has the values that it had, in other memory; its own was written into."""

    def forward(self, x: Tensor) -> Tensor:
        self.linear.weight.data.mul_(2)
        self.linear.weight.data = self.linear.weight.data / 2
        y: Tensor = self.linear(x)
        return y


class ThroughNumpy(Square):
    def forward(self, x: Tensor) -> Tensor:
        self.linear.weight.detach().numpy()[0] += 0.5
        y: Tensor = self.linear(x)
        return y


KINDS: list[type[Square]] = [Adds, ThroughViews, DataAdds, Transposes, TakesOthers, WritesAndReplaces, ThroughNumpy]


def test_a_view_lies_in_the_memory_of_what_it_looks_into() -> None:
    plain, shared = torch.rand(4, 6), copied_on_write(torch.rand(4, 6))
    for tensor in (plain, shared):
        assert {storage_of(view) for view in (tensor[2:], tensor.t(), tensor[:, 1], tensor[:0])} == {storage_of(tensor)}
    assert storage_of(plain) == plain.untyped_storage().data_ptr() != storage_of(shared)
    assert is_copied_on_write(shared)


@pytest.mark.parametrize("kind", KINDS)
def test_forward_that_writes_into_parameters(kind: type[Square]) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    before, eager = copy.deepcopy(model.state_dict()), copy.deepcopy(model)
    captured = pipeline.capture(model, (X,))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for x in (X, 2 * X, X + 1):
        assert torch.allclose(captured(x), eager(x), atol=1e-6)


def test_parameters_that_nothing_writes_into_are_not_copied_again() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 4)).eval()
    captured = pipeline.capture(model, (X,))
    assert all(map(is_copied_on_write, captured.parameters()))
    assert not any(map(is_copied_on_write, model.parameters()))


@pytest.mark.parametrize(
    "stage", [lambda m: pipeline.capture(m, (X,)), lambda m: prepared(m)[0], lambda m: prepared(m)[1]]
)
def test_training_the_model_afterwards_does_not_change_what_was_made(stage: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    made, array = stage(model), model[0].weight.detach().numpy()
    expected = made(X)
    with torch.no_grad():
        for item in model.parameters():
            item.add_(1)
    assert torch.equal(made(X), expected)
    assert (array == model[0].weight.detach().numpy()).all()  # in the memory where it was


def prepared(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    observed = prepare_fx(model, get_default_qconfig_mapping(), (X,))
    observed(X)
    return observed, convert_fx(observed)


class Asks(nn.Module):
    """Keeps a statement whole, for other sizes: a second trace."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.positions = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        positions = self.positions
        if x.shape[0] != positions.shape[0]:
            positions = F.interpolate(positions.t()[None], size=x.shape[0])[0].t()
        y: Tensor = self.linear(x) + positions
        return y


class AsksAndCounts(Asks):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


@pytest.mark.parametrize(("kind", "copies"), [(Asks, 1), (AsksAndCounts, 2)])
def test_a_trace_leaves_its_copy_to_the_next_where_it_changed_nothing(
    kind: type[Asks], copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[Any]()

    def noted(*args: Any) -> nn.Module:
        made.append(prepare_copy(*args))
        return made[-1]

    prepare_copy = attempt.prepare_copy
    monkeypatch.setattr(attempt, "prepare_copy", noted)
    model = kind().eval()
    captured, eager = pipeline.capture(model, (X,)), copy.deepcopy(model)
    assert len(made) >= copies if copies > 1 else len(made) == 1
    for x in (X, torch.randn(5, 4), X):
        assert torch.allclose(captured(x), eager(x), atol=1e-6)
