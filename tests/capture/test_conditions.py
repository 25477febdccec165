"""Conditions of several parts that ask for sizes, and sizes that are asked for behind a device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fxquant import pipeline
from fxquant.capture.record_again import RecordAgain
from fxquant.errors import FxquantError
from fxquant.ir.checks import require_same
from fxquant.ir.float_part import FloatPart

Way = Callable[["Asks", Tensor, Tensor | None], Tensor]


class Asks(nn.Module):
    """Goes one of two ways, by length and by whether there is a mask."""

    def __init__(self, way: Way, has_mask: bool = True) -> None:
        super().__init__()
        self.linear, self.way, self.calls = nn.Linear(4, 4), way, 0
        self.flag, self.mask = False, torch.randn(4) if has_mask else None

    def count(self) -> bool:
        self.calls += 1
        return True

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, self.linear(x), self.mask)


def as_value(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    is_causal = x.shape[1] > 1 and mask is None
    return x.tril() if is_causal else x


def as_argument(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    is_causal = x.shape[1] > 1 and mask is None
    y: Tensor = torch.nn.functional.scaled_dot_product_attention(x, x, x, None, 0.0, is_causal)
    return y


def last_of_three(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    flag = False
    if x.shape[1] > 1 and x.shape[0] != 7 and flag:
        return x.tril()
    return x


def behind_not(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    return x.tril() if not (x.shape[1] == 1) and mask is None else x  # noqa: SIM201


def either(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    if x.shape[1] == 1 or mask is not None:
        return x
    return x.tril()


def equal_lengths(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    length, count = x.shape[1], x.shape[1]
    return x if (length == 1 or length == count) and mask is not None else x.tril()


def same_either_way(captured: nn.Module, model: nn.Module, length: int) -> bool:
    x = torch.randn(2, length, 4)
    return torch.equal(captured(x), model(x))


@pytest.mark.parametrize("way", [as_value, as_argument, last_of_three, behind_not, either, equal_lengths])
@pytest.mark.parametrize("example", [1, 5])
def test_conditions_are_right_for_every_length(way: Way, example: int) -> None:
    model = Asks(way).eval()
    captured = pipeline.capture(model, (torch.randn(2, example, 4),))
    for length in (1, 2, 5, 9):
        try:
            assert same_either_way(captured, model, length)
        except FxquantError:
            assert length != example


@pytest.mark.parametrize("way", [as_value, as_argument, last_of_three, behind_not, either, equal_lengths])
def test_what_another_part_of_a_condition_decides_is_not_asked(way: Way) -> None:
    model = Asks(way).eval()
    captured = pipeline.capture(model, (torch.randn(2, 5, 4),))
    assert all(same_either_way(captured, model, length) for length in (1, 2, 5, 9))
    assert not any(isinstance(module, FloatPart) for module in captured.modules())
    assert "another part of the condition decides" in [fact.handled for fact in captured.state.facts]


@pytest.mark.parametrize("way", [as_value, behind_not, either])
def test_what_no_other_part_decides_is_asked(way: Way) -> None:
    model = Asks(way, has_mask=False).eval()
    captured = pipeline.capture(model, (torch.randn(2, 5, 4),))
    assert same_either_way(captured, model, 5)
    try:
        assert same_either_way(captured, model, 1)
    except FxquantError as error:
        assert "x.shape[1]" in str(error)  # refused


def counts(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    return x.tril() if x.shape[1] > 1 and self.count() and mask is None else x


def unknown(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    return x.tril() if x.shape[1] > 1 and self.flag else x  # an attribute, which others may set


def of_lengths(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    flag = bool(x.shape[1] > 3)
    return x * 2 if x.shape[1] > 1 and not flag else x


def of_two_lengths(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    length, rows = x.shape[1], x.shape[0]
    return x if length == 1 or rows == 2 else x.tril()


def second_not_asked(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    length, rows = x.shape[1], x.shape[0]
    return x if length > 1 or rows == 3 else x * 2


@pytest.mark.parametrize("way", [counts, unknown, of_lengths, of_two_lengths, second_not_asked])
def test_conditions_that_do_more_than_compare_are_asked(way: Way) -> None:
    model = Asks(way).eval()
    captured = pipeline.capture(model, (torch.randn(2, 5, 4),))
    for rows, length in ((2, 5), (2, 1), (2, 2), (3, 1), (3, 5)):
        x = torch.randn(rows, length, 4)
        try:
            assert torch.equal(captured(x), model(x))
        except FxquantError:
            assert (rows, length) != (2, 5)


def moved(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    y = x.to(x.device)
    return y * 2 if y.shape[1] % 4 else y


def moved_by_name(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    y = x.to("cpu") + torch.zeros(x.shape[1], 1, device="cpu").to(device=x.device, dtype=x.dtype)
    return y * 2 if y.shape[1] % 4 else y


def brought_back(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    y = x.cpu()
    return y * 2 if y.shape[1] % 4 else y


@pytest.mark.parametrize("way", [moved, moved_by_name, brought_back])
def test_sizes_are_known_behind_a_device(way: Way) -> None:
    model = Asks(way).eval()
    captured = pipeline.capture(model, (torch.randn(2, 4, 4),))
    assert all(same_either_way(captured, model, length) for length in (1, 4, 6, 8))


def is_special(x: object) -> bool:
    try:
        return isinstance(x, nn.Parameter)
    except Exception:
        return False


def asks_in_try(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    mask = torch.ones(x.shape[1])
    if x.shape[1] % 2:
        mask = mask.cumsum(0)
    return x if is_special(mask) else x + mask[:, None]


def test_a_question_about_what_a_part_gives_raises_nothing() -> None:
    model = Asks(asks_in_try).eval()
    captured = pipeline.capture(model, (torch.randn(2, 4, 4),))
    assert not any(fact.kind == "caught-error" for fact in captured.state.facts)
    assert all(same_either_way(captured, model, length) for length in (1, 4, 7))


def test_what_is_compared_twice_is_checked_once() -> None:
    def twice(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
        length = x.shape[1]
        y = x.tril() if length > 3 else x * 2
        return y + 1 if length > 3 else y

    captured = pipeline.capture(Asks(twice).eval(), (torch.randn(2, 5, 4),), strict=True)
    assert sum(node.target is require_same for node in captured.graph.nodes) == 1
    with pytest.raises(FxquantError, match="length > 3"):
        captured(torch.randn(2, 2, 4))


class Halved(nn.Module):
    """Asks for a length that it is given: the same number for some layers, of other tensors for others."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, length: int) -> Tensor:
        y: Tensor = self.linear(x)
        return y * 2 if length > 3 else y


class OfTwoLengths(nn.Module):
    """Its last layers are given another input's length, which is the same in the example."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Halved() for _ in range(14))

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x, x.shape[1] if index < 9 else other.shape[1])
        return x


@pytest.mark.parametrize("strict", [True, False])
def test_layers_given_another_length_check_that_one(strict: bool) -> None:
    model, x = OfTwoLengths().eval(), torch.randn(2, 5, 4)
    captured = pipeline.capture(model, (x, x), strict=strict)
    for other in (torch.randn(2, 7, 4), torch.randn(2, 2, 4)):
        try:
            assert torch.allclose(captured(x, other), model(x, other), atol=1e-6)
        except FxquantError:
            assert strict and other.shape[1] == 2
        else:
            assert not strict or other.shape[1] == 7


def parts_of_containers(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    rows, length = x.shape[0], x.shape[1]
    return x * 2 if length not in [4, rows] and x.shape[2] == 4 else x


def negated(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    flag = True
    return x * (-(x.shape[1] > 2) or flag)


def last_is_kept(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    rows, length = x.shape[0], x.shape[1]
    return x * (length > 2 or rows == 2)


def by_next(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    rows, length = x.shape[0], x.shape[1]
    found = next((size for size in (3, 4) if size == length), None)
    return x * 2 if rows > 1 and found is not None else x * 3


def many_in_try(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    try:
        x = x * 2 if torch.ones(x.shape[1]) else x
    except RuntimeError:
        x = x * 3
    return x


def of_containers(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    rows, length, width = x.shape
    return x * 2 if (rows, length) != (3, 4) and width == 4 else x * 3


def of_tensors(self: Asks, x: Tensor, mask: Tensor | None) -> Tensor:
    flag = True
    found = (torch.arange(x.shape[1]).sum() > 3) or flag
    return x * 2 if isinstance(found, bool) else x * 3


@pytest.mark.parametrize("way", [parts_of_containers, of_containers, of_tensors, negated, last_is_kept, by_next])
@pytest.mark.parametrize("example", [(3, 4), (2, 1), (2, 4), (1, 5)])
def test_nothing_that_decides_is_left_out(way: Way, example: tuple[int, int]) -> None:
    model = Asks(way).eval()
    captured = pipeline.capture(model, (torch.randn(*example, 4),))
    for rows, length in ((1, 1), (1, 2), (2, 1), (2, 4), (2, 5), (3, 4), (3, 1)):
        x = torch.randn(rows, length, 4)
        try:
            assert torch.equal(captured(x), model(x)), (rows, length)
        except FxquantError:
            assert (rows, length) != example


@pytest.mark.parametrize("example", [4, 1])
def test_a_truth_value_that_cannot_be_told_is_an_error_that_is_caught(example: int) -> None:
    model = Asks(many_in_try).eval()
    captured = pipeline.capture(model, (torch.randn(2, example, 4),))
    for length in (4, 1, 3):
        x = torch.randn(2, length, 4)
        try:
            assert torch.equal(captured(x), model(x)), length
        except (FxquantError, RuntimeError):  # raised, not caught
            assert length != example


class Masked(nn.Module):
    """A layer that asks for a length, and whether there is a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        is_causal = x.shape[1] > 1 and mask is None
        y: Tensor = torch.nn.functional.scaled_dot_product_attention(x, x, self.linear(x), mask, 0.0, is_causal)
        return y


class ManyMasked(nn.Module):
    """Layers, the last of which are given no mask."""

    def __init__(self, unmasked: int) -> None:
        super().__init__()
        self.layers, self.unmasked = nn.ModuleList(Masked() for _ in range(16)), unmasked

    def forward(self, x: Tensor) -> Tensor:
        mask = x.new_ones(x.shape[1], x.shape[1]).tril()
        for index, layer in enumerate(self.layers):
            x = layer(x, mask if index < len(self.layers) - self.unmasked else None)
        return x


@pytest.mark.parametrize("unmasked", [0, 1, 4])
@pytest.mark.parametrize("example", [1, 5])
def test_deep_models_are_recorded_again(unmasked: int, example: int, monkeypatch: pytest.MonkeyPatch) -> None:
    again, run = list[RecordAgain](), RecordAgain.run
    monkeypatch.setattr(RecordAgain, "run", lambda self: again.append(self) or run(self))
    model = ManyMasked(unmasked).eval()
    captured = pipeline.capture(model, (torch.randn(2, example, 4),))
    assert len(again) >= (8 if not unmasked else 0)
    for length in (1, 2, 5, 9):
        try:
            assert same_either_way(captured, model, length), length
        except FxquantError:
            assert (unmasked or example == 1) and length != example
