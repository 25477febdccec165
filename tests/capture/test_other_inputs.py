"""Inputs of other kinds than the example's: computed rightly, or refused in words about the input."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import pipeline
from fxquant.errors import FxquantError


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: Any = 1) -> Tensor:
        y: Tensor = self.linear(x) * scale
        return y if mask is None else y * mask


X = torch.ones(2, 4)
REFUSED: tuple[tuple[Any, Any, str], ...] = (
    ((X, X), (X,), "captured with the inputs x, mask and is called with 1 positional inputs"),
    ((X, X), (X, None), "input 'mask' was a tensor when the model was captured and is None now"),
    ((X, X), (X, [X]), "input 'mask' was a tensor when the model was captured and is a list now"),
    ((X,), (X, X), "captured with the inputs x and is called with 2 positional inputs"),
    ((X, None), (X, X), "input 'mask' was None when the model was captured and is a tensor now"),
    ((X, None, 2), (X, None, X), "input 'scale' was 2 when the model was captured and is a tensor now"),
    ({"x": X, "mask": X}, {"x": X}, "and is called with 0 positional inputs and 'x'"),
)


@pytest.mark.parametrize(("example", "later", "message"), REFUSED)
def test_optional_inputs_given_later_or_left_out(example: Any, later: Any, message: str) -> None:
    captured = pipeline.capture(Masked(), example)
    with pytest.raises(FxquantError, match=re.escape(message)):
        captured(**later) if isinstance(later, dict) else captured(*later)


class Named(nn.Module):
    def forward(self, batch: dict[str, Any]) -> Tensor:
        total: Tensor = batch["x"] + batch["more"][1]
        return total


def test_dictionaries_with_other_contents() -> None:
    captured = pipeline.capture(Named(), ({"x": X, "more": (X, X)},))
    assert torch.equal(captured({"x": X, "more": (X, 2 * X)}), 3 * X)
    for later, message in (
        ({"x": X, "others": (X, X)}, "input 'batch' was a dict of ['x', 'more'] when the model was captured"),
        ({"more": (X, X), "x": X}, "input 'batch' was a dict of ['x', 'more'] when the model was captured"),
        ({"x": X, "more": (X, None)}, "was a tensor when the model was captured and is None now"),
    ):
        with pytest.raises(FxquantError, match=re.escape(message)):
            captured(later)


def test_errors_of_the_operators_themselves_stay() -> None:
    captured = pipeline.capture(Masked(), (X,))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        captured(torch.ones(2, 3))


class AsksForOrder(nn.Module):
    """Asks how its input lies in memory: in a statement without weights, or around weights."""

    def __init__(self, around_weights: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.around_weights = around_weights

    def forward(self, x: Tensor) -> Tensor:
        if self.around_weights:
            if x.is_contiguous():
                return self.linear(x)  # type: ignore[no-any-return]
            return self.linear(x) * 2  # type: ignore[no-any-return]
        factor = 2 if x.is_contiguous() else 3
        return self.linear(x) * factor  # type: ignore[no-any-return]


def test_memory_order_of_inputs() -> None:
    x = torch.randn(3, 4, 4)
    model = AsksForOrder(False)
    captured = pipeline.capture(model, (x,))
    for given in (x, x.transpose(0, 1)):
        assert torch.equal(captured(given), model(given))
    captured = pipeline.capture(AsksForOrder(True), (x,))
    with pytest.raises(FxquantError, match=r"if x.is_contiguous\(\)"):
        captured(x.transpose(0, 1))


class Writes(nn.Module):
    """Writes into its first input and reads the second."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x[:, 0] = 0
        return self.linear(y)  # type: ignore[no-any-return]


class Same(Writes):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z: Tensor = self.linear(x)
        return z * 2 if x is y else z + y


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Writes, "input 'x' lies in the memory of another input"), (Same, "`return z . 2 if x is y .*two are now")],
)
def test_one_tensor_given_twice(kind: type[Writes], message: str) -> None:
    model, x, y = kind().eval(), torch.randn(3, 4), torch.randn(3, 4)
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (x, y))
    observed(x.clone(), y.clone())
    for captured in (pipeline.capture(model, (x, y)), fxquant.convert_fx(observed)):
        expected, found = (call(x.clone(), y.clone()) for call in (model, captured))
        assert (found - expected).abs().max() <= 0.05 * expected.abs().max()
        with pytest.raises(FxquantError, match=message):
            captured(x, x)
        if kind is Writes:  # parts of one tensor that have no number in common are two
            captured(*torch.randn(2, 3, 4))
            with pytest.raises(FxquantError, match=message):
                captured(*_overlapping())


def _overlapping() -> tuple[Tensor, Tensor]:
    rows = torch.randn(4, 4)
    return rows[:3], rows[1:]


@pytest.mark.parametrize("kind", [Writes, Same])
def test_one_tensor_given_twice_in_the_example(kind: type[Writes]) -> None:
    model, x, y = kind().eval(), torch.randn(3, 4), torch.randn(3, 4)
    captured = pipeline.capture(model, (x, x))
    for first, second in ((x.clone(), None), (x.clone(), y.clone())):
        expected = model(*((same := first.clone()), same if second is None else second.clone()))
        found = captured(*((same := first.clone()), same if second is None else second.clone()))
        assert torch.allclose(expected, found)


@dataclass
class Batch:
    x: Tensor
    mask: Tensor | None = None


class TakesBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, batch: Batch) -> Tensor:
        y: Tensor = self.linear(batch.x)
        return y if batch.mask is None else y * batch.mask


def test_a_field_that_is_missing_is_named_at_every_stage() -> None:
    batch = (Batch(torch.randn(3, 4), torch.ones(3, 4)),)
    observed = fxquant.prepare_fx(TakesBatch().eval(), fxquant.get_default_qconfig_mapping(), batch)
    observed(*batch)
    for model in (observed, fxquant.convert_fx(observed)):
        with pytest.raises(FxquantError, match=r"input 'batch\.mask' was a tensor when the model was captured and"):
            model(Batch(batch[0].x))


class Keyed(dict[str, Tensor]):
    features: Tensor


class Listed(list[Tensor]):
    features: Tensor


@dataclass
class Output(OrderedDict[str, Tensor]):
    logits: Tensor | None = None

    def __post_init__(self) -> None:
        if self.logits is not None:
            self["logits"] = self.logits


class Returns(TakesBatch):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        y = self.linear(x)
        named, listed, output = Keyed(logits=y), Listed([y]), Output(y)
        named.features, listed.features, output["extra"] = y.relu(), y.tanh(), y * 2
        return named, listed, output


def test_attributes_and_entries_of_containers_of_their_own_classes() -> None:
    model, x = Returns().eval(), torch.randn(3, 4)
    named, listed, output = pipeline.capture(model, (torch.randn(2, 4),))(x)
    y = model.linear(x)
    assert type(named) is Keyed and torch.equal(named.features, y.relu()) and torch.equal(named["logits"], y)
    assert type(listed) is Listed and torch.equal(listed.features, y.tanh()) and torch.equal(listed[0], y)
    assert type(output) is Output and torch.equal(output["extra"], y * 2) and torch.equal(output.logits, y)
    assert fxquant.check_traceable(model, (x,)).ok
