"""Agreement of units with floats on both sides: what the order of a sum and ties explain, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from linears import ENGINES, converted
from torch import Tensor, nn

import fxquant
from fxquant.backends.native.kernels.conv_dynamic import ConvDynamic
from fxquant.inspect.agreement import check_agreement

INT8 = fxquant.per_channel_dynamic_qconfig


class _OneProduct(nn.Module):
    """Each result is one product of integers, and many lie half-way between two of 255 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1, groups=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


def _mapping() -> fxquant.QConfigMapping:
    return fxquant.get_default_qconfig_mapping().set_object_type(nn.Conv2d, INT8).set_object_type(nn.RNN, INT8)


@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_results_half_way_between_steps_may_round_apart(engine: str) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        x = torch.randn(2, 2, 10, 10)
        reference, quantized = converted(_OneProduct(), _mapping(), (x,), engine)
        assert not check_agreement(reference, quantized, x).violations


@torch.no_grad()
def test_a_kernel_that_is_a_step_off_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 2, 10, 10)
    reference, quantized = converted(_OneProduct(), _mapping(), (x,))
    right = ConvDynamic.forward

    def wrong(self: Any, given: Tensor) -> Tensor:
        y: Tensor = right(self, given)
        return y + 0.4 * (y.max() - y.min()) / 255

    monkeypatch.setattr(ConvDynamic, "forward", wrong)
    assert [row.unit for row in check_agreement(reference, quantized, x).violations] == ["conv"]


@torch.no_grad()
def test_a_recurrent_layer_may_read_ties() -> None:
    apart = 0
    for seed in range(10):
        torch.manual_seed(seed)
        x = 0.2 * torch.rand(2, 8, 8)
        x[:, 0, 0], x[:, 1, 0] = -1.0, 0.2  # of 255 steps between them both lie half-way between two
        model = nn.Sequential(nn.RNN(8, 3, num_layers=2, batch_first=True))
        reference, quantized = converted(model, _mapping(), (x,))
        agreement = check_agreement(reference, quantized, x)
        assert not agreement.violations
        apart += any(row.differing > 1 for row in agreement.rows)
    assert apart
