"""Modules that a user left in training mode in a model in evaluation: dropout that estimates doubt."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fxquant


class Doubts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(8, 64), nn.Dropout(0.5), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.drop(torch.relu(self.first(x))))
        return y


def test_dropout_goes_on_drawing_in_every_stage() -> None:
    model, x = Doubts().eval(), torch.randn(4, 8)
    model.drop.train()
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (x,))
    observed(x)
    for stage in (observed, fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)):
        assert not torch.equal(stage(x), stage(x))
        assert torch.equal(stage.eval()(x), stage(x))


def test_a_model_that_was_trained_is_converted_for_evaluation() -> None:
    model, x = Doubts().train(), torch.randn(4, 8)
    prepared = fxquant.prepare_qat_fx(model, fxquant.get_default_qat_qconfig_mapping(), (x,))
    prepared(x)
    quantized = fxquant.convert_fx(prepared)
    assert not quantized.training and torch.equal(quantized(x), quantized(x))
