"""What is looked up by the identity of a model's own modules: a copy would compute something else, unnoticed."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.capture.trace_model import trace_model
from fxquant.errors import CaptureError
from fxquant.ir.walk_modules import Inventory

SCALES: dict[int, float] = {}
FLAGGED: set[int] = set()
LAST: list[Any] = [None]
GAINS: weakref.WeakKeyDictionary[nn.Module, float] = weakref.WeakKeyDictionary()


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)


class ById(Two):
    def __init__(self) -> None:
        super().__init__()
        SCALES[id(self.second)] = 3.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        for layer in (self.first, self.second):
            x = layer(x) * SCALES.get(id(layer), 1.0)
        return x


class InSet(Two):
    def __init__(self) -> None:
        super().__init__()
        FLAGGED.add(id(self.second.weight))

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            x = layer(x).relu() if id(layer.weight) in FLAGGED else layer(x)
        return self.norm(x)  # type: ignore[no-any-return]


class Itself(Two):
    def __init__(self) -> None:
        super().__init__()
        LAST[0] = self

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.second(self.first(x)))
        return x.relu() if self is LAST[0] else x


class Weakly(Two):
    def __init__(self) -> None:
        super().__init__()
        GAINS[self.second] = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(self.first(x))) * GAINS.get(self.second, 1.0)  # type: ignore[no-any-return]


class HeldIds(Two):
    def __init__(self) -> None:
        super().__init__()
        self.gains = {id(self.first): 2.0, id(self.second): 4.0}

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            x = layer(x) * self.gains[id(layer)]  # KeyError in a copy
        return self.norm(x)  # type: ignore[no-any-return]


class OfItsClass(Two):
    special: Any = None

    def __init__(self) -> None:
        super().__init__()
        type(self).special = self.second

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.norm(self.second(x).abs() if self.second is self.special else self.second(x))  # type: ignore[no-any-return]


class Enclosed(Two):
    def __init__(self) -> None:
        super().__init__()
        self.order = {self.first: 1.0, self.second: 2.0}  # copied with its keys

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            x = layer(x) * self.order[layer]
        return self.norm(x)  # type: ignore[no-any-return]


class Registered(Two):
    """Known, and never asked for."""

    def __init__(self) -> None:
        super().__init__()
        LAST[0] = self

    def forward(self, x: Tensor) -> Tensor:
        assert LAST
        return self.norm(self.second(self.first(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("kind", [ById, InSet, Itself, Weakly, HeldIds, OfItsClass])
def test_refused_where_a_copy_computes_something_else(kind: type[Two], trains: bool) -> None:
    torch.manual_seed(0)
    model, x = kind().train(trains), torch.randn(4, 8)
    model.first.weight.grad = kept = torch.ones(8, 8)
    before = {name: item.clone() for name, item in model.state_dict().items()}
    attributes = {path: dict(vars(module)) for path, module in model.named_modules()}
    with pytest.raises(CaptureError, match="computes something else than a copy of it"):
        trace_model(model, (x,), trains=trains)
    assert all(torch.equal(item, before[name]) for name, item in model.state_dict().items())
    assert {path: dict(vars(module)) for path, module in model.named_modules()} == attributes
    assert model.first.weight.grad is kept and torch.equal(kept, torch.ones(8, 8))
    assert all(item.requires_grad for item in model.parameters())


@pytest.mark.parametrize("kind", [Enclosed, Registered])
def test_captured_where_it_does_not(kind: type[Two]) -> None:
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(4, 8)
    traced = trace_model(model, (x,))
    found = torch.fx.GraphModule(traced.root, traced.graph)(x)
    assert torch.equal(found, model(x))


def test_the_checker_says_so() -> None:
    report = fxquant.check_traceable(ById().eval(), (torch.randn(4, 8),))
    assert not report.ok
    assert "SCALES" in str(report)


def test_the_checker_says_so_of_models_whose_copies_fail() -> None:
    with pytest.raises(CaptureError, match=r"`gains` knows its modules"):
        fxquant.check_traceable(HeldIds().eval(), (torch.randn(4, 8),))


@pytest.mark.parametrize("kind", [ById, HeldIds])
def test_qat_refuses_too(kind: type[Two]) -> None:
    mapping = fxquant.get_default_qat_qconfig_mapping()
    with pytest.raises(CaptureError, match="by their identity"):
        fxquant.prepare_qat_fx(kind().train(), mapping, (torch.randn(4, 8),))


def test_the_model_is_not_called_where_nothing_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Enclosed().eval()
    called = []
    monkeypatch.setattr(fxquant.capture.own_objects, "_result_of", lambda *given: called.append(given))
    trace_model(model, (torch.randn(4, 8),))
    assert not called and Inventory(model).modules
