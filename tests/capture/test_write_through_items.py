"""In-place operations on a part of a tensor stay int8; what a third view shows afterwards stays as it was written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.inspect.agreement import check_agreement
from fxquant.numerics.sqnr import sqnr_db

Function = Callable[[Tensor, Tensor], Tensor]


class Between(nn.Module):
    """A function of two tensors between convolutions."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.first, self.other, self.last = (nn.Conv2d(4, 4, 1) for _ in range(3))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        result: Tensor = self.last(self.function(self.first(x), self.other(y)))
        return result


def _check(function: Function) -> fxquant.Explanation:
    torch.manual_seed(0)
    model, inputs = Between(function).eval(), (torch.randn(2, 4, 6, 6), torch.randn(2, 4, 6, 6))
    given = tuple(tensor.clone() for tensor in inputs)
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping("x86"), inputs)
    with torch.no_grad():
        assert torch.equal(observed(*inputs), model(*inputs))
        reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
        assert not check_agreement(reference, quantized, *inputs).violations
        assert sqnr_db(model(*inputs), quantized(*inputs)) > 28
        assert all(torch.equal(one, other) for one, other in zip(inputs, given, strict=True))
        larger = torch.randn(3, 4, 7, 7), torch.randn(3, 4, 7, 7)
        assert quantized(*larger).shape == model(*larger).shape
    return fxquant.explain(quantized)


def _augmented(x: Tensor, y: Tensor) -> Tensor:
    x[..., 0] += 1
    x[:, 1:] *= y[:, 1:]
    return x


def _of_itself(x: Tensor, y: Tensor) -> Tensor:
    x[:, 0] *= x[:, 1]
    return x + y


def _method(x: Tensor, y: Tensor) -> Tensor:
    x[:, 1:3].mul_(2)
    F.relu(y[:, :2], inplace=True)
    return torch.cat([x, y], 1)[:, 2:6]


def _named(x: Tensor, y: Tensor) -> Tensor:
    part = x[:, 0]
    part -= y[:, 0]
    return x + part.unsqueeze(1)


def _masked(x: Tensor, y: Tensor) -> Tensor:
    x[:, 0].masked_fill_(y[:, 0] > 0, 0.25)
    return x


@pytest.mark.parametrize("function", [_augmented, _of_itself, _method, _named, _masked])
def test_parts_stay_int8(function: Function) -> None:
    counts = _check(function).counts
    assert counts["float"] == counts["step"] == 0


def _seen_through_a_third(x: Tensor, y: Tensor) -> Tensor:
    first, second = x[:, :2], x[:, 1:3]
    first += 1
    return y + second.sum(1, keepdim=True)


def _again(x: Tensor, y: Tensor) -> Tensor:
    part = x[:, 0]
    part -= 1
    part *= 2
    return x + y


def _of_a_part(x: Tensor, y: Tensor) -> Tensor:
    x[:, 0][:, 1] += 1
    return x


def _of_a_view(x: Tensor, y: Tensor) -> Tensor:
    rows = x.view(x.shape[0], -1)
    rows[:, 3] += 1
    return x + y


def _then_the_whole(x: Tensor, y: Tensor) -> Tensor:
    part = x[:, :, ::2]
    part.relu_()
    x[:, :, 1:4] = y[:, :, 1:4]  # changes the part, too
    return torch.cat([part, x[:, :, 3:]], 2)


def _then_the_whole_by_method(x: Tensor, y: Tensor) -> Tensor:
    part = x[:, 1:3]
    part += 1
    x.mul_(0.5)
    return F.pad(part, (0, 0, 0, 0, 1, 1)) + x


_SEEN_BY_OTHERS = [_seen_through_a_third, _again, _of_a_part, _of_a_view, _then_the_whole, _then_the_whole_by_method]


@pytest.mark.parametrize("function", _SEEN_BY_OTHERS)
def test_what_others_see_stays_as_written(function: Function) -> None:
    assert any("in place" in row.reason for row in _check(function).rows)


def test_writes_into_the_model_are_none() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("row", torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            self.row[:2] += 1.0
            return x + self.row

    x = torch.randn(2, 4)
    observed = fxquant.prepare_fx(Counts().eval(), fxquant.get_default_qconfig_mapping("x86"), (x,))
    model = Counts().eval()
    for _ in range(3):
        assert torch.equal(observed(x), model(x))
