"""Tensors that forward makes of plain numbers are constants of the model, unless something can change them."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.inspect.agreement import check_agreement
from fxquant.numerics.sqnr import sqnr_db

Function = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """A function between two convolutions."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function, self.first, self.last = function, nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.function(self.first(x)))
        return result


def _converted(
    function: Function, x: Tensor
) -> tuple[nn.Module, fxquant.ir.stages.ReferenceModel, fxquant.ir.stages.QuantizedModel]:
    torch.manual_seed(0)
    model = Between(function).eval()
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping("x86"), (x,))
    with torch.no_grad():
        assert torch.equal(observed(x), model(x))
    return model, fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)


STORED: dict[str, Function] = {
    "tensor": lambda x: x * torch.tensor(2.5),
    "reflected": lambda x: torch.tensor(1.5) - x,
    "whole number": lambda x: x + torch.tensor(3),
    "truth value": lambda x: x + torch.tensor(True),
    "as_tensor": lambda x: x / torch.as_tensor(0.7),
    "scalar_tensor": lambda x: torch.maximum(x, torch.scalar_tensor(0.1)),
    "like its input": lambda x: x * torch.tensor(0.5, dtype=x.dtype, device=x.device),
    "new_tensor": lambda x: x * x.new_tensor(0.5),
    "exponent": lambda x: x ** torch.tensor(2.0),
    "two bounds": lambda x: torch.clamp(x, torch.tensor(-0.2), torch.tensor(0.3)),
    "filled": lambda x: x.masked_fill(x > 0.2, torch.tensor(0.25)),
    "chosen": lambda x: torch.where(x > 0, x, torch.full((), -0.1)),
    "computed": lambda x: x * (torch.ones(()) * 3 - 1),
}


@pytest.mark.parametrize("title", STORED)
def test_a_table_takes_numbers_in_exactly(title: str) -> None:
    x = torch.randn(2, 3, 6, 6)
    model, reference, quantized = _converted(STORED[title], x)
    rows = fxquant.explain(quantized).rows
    assert [row.kernel for row in rows if row.kernel.startswith("table")] == ["table of 256"]
    assert {row.outcome for row in rows} <= {"int8", "folded"}
    assert not check_agreement(reference, quantized, x).violations
    assert sqnr_db(model(x), quantized(x)) > 30


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + torch.tensor([1.0, -2.0, 0.5]).view(3, 1, 1),
        lambda x: x * torch.linspace(0.5, 1.5, 6),
        lambda x: torch.cat([x, torch.zeros(2, 1, 6, 6)], 1)[:, 1:],
        lambda x: torch.matmul(x, torch.eye(6)),
        lambda x: x * torch.arange(6).float(),
    ],
)
def test_rows_and_maps_are_integers_before_the_model_runs(function: Function) -> None:
    x = torch.randn(2, 3, 6, 6)
    model, reference, quantized = _converted(function, x)
    explained = fxquant.explain(quantized)
    assert explained.counts["float"] == explained.counts["step"] == 0
    assert [node for node in quantized.graph.nodes if node.target in (torch.tensor, torch.eye, torch.arange)] == []
    assert not check_agreement(reference, quantized, x).violations
    assert sqnr_db(model(x), quantized(x)) > 30


def _written(x: Tensor) -> Tensor:
    row = torch.zeros(6)
    row[0] = 1.0
    return x + row


def _filled(x: Tensor) -> Tensor:
    return x * torch.ones(6).fill_(0.5)


def _sums(x: Tensor) -> Tensor:
    total = torch.zeros(2, 3, 6, 6)
    for _ in range(2):
        total += x
    return total


def _seen_through(x: Tensor) -> Tensor:
    row = torch.zeros(6)
    row.view(2, 3)[0] += 1.0
    return x + row


@pytest.mark.parametrize("function", [_written, _filled, _sums, _seen_through])
def test_what_is_written_into_is_made_anew_in_every_call(function: Function) -> None:
    x = torch.randn(2, 3, 6, 6)
    model, reference, quantized = _converted(function, x)
    assert torch.equal(quantized(x), quantized(x))
    assert not check_agreement(reference, quantized, x).violations
    assert sqnr_db(model(x), quantized(x)) > 30


def test_sizes_of_the_input_are_no_plain_numbers() -> None:
    x = torch.randn(2, 3, 6, 6)
    model, _, quantized = _converted(lambda x: x + torch.ones(x.shape[-1]) * torch.arange(x.shape[-2]).view(-1, 1), x)
    larger = torch.randn(2, 3, 7, 5)
    assert quantized(larger).shape == model(larger).shape


def test_results_are_not_shared_between_calls() -> None:
    class Returns(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.relu(), torch.zeros(3)

    x = torch.randn(2, 3)
    observed = fxquant.prepare_fx(Returns().eval(), fxquant.get_default_qconfig_mapping("x86"), (x,))
    observed(x)[1].add_(1.0)
    assert torch.equal(observed(x)[1], torch.zeros(3))


def test_stored_constants_are_no_part_of_the_state_dict_and_survive_files() -> None:
    x = torch.randn(2, 3, 6, 6)
    torch.manual_seed(0)
    model = Between(_chosen_rows).eval()
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping("x86"), (x,))
    observed(x)
    file = io.BytesIO()
    torch.save(observed, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(fxquant.convert_fx(loaded)(x), fxquant.convert_fx(observed)(x))
    assert torch.equal(loaded(x), model(x))


def _chosen_rows(x: Tensor) -> Tensor:
    return x.index_select(1, torch.tensor([2, 0, 1])) * torch.tensor([[0.5], [2.0], [1.0], [1.0], [3.0], [0.1]])
