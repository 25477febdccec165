"""Hooks on the tensors that are saved for backward: a graph that is trained has none of them."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks

import fxquant
from fxquant import pipeline


class Doubled(saved_tensors_hooks):
    def __init__(self) -> None:
        super().__init__(lambda tensor: tensor * 2, lambda tensor: tensor)


class Saves(nn.Module):
    def __init__(self, block: AbstractContextManager[None]) -> None:
        super().__init__()
        self.first, self.last, self.block = nn.Linear(8, 8), nn.Linear(8, 8), [block]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.relu(self.first(x))
        with self.block[0]:
            y = y * y.sin()
        z: Tensor = self.last(y)
        return z


def _plain() -> saved_tensors_hooks:
    return saved_tensors_hooks(lambda tensor: tensor * 2, lambda tensor: tensor)


@pytest.mark.parametrize(("make", "changes"), [(_plain, True), (Doubled, True), (save_on_cpu, False)])
def test_gradients_are_those_of_eager(make: type[saved_tensors_hooks], changes: bool) -> None:
    model, x = Saves(make()).train(), torch.randn(4, 8)
    prepared = fxquant.prepare_qat_fx(model, fxquant.get_default_qat_qconfig_mapping(), (x,))
    assert bool(prepared.state.capture_notes) is changes
    prepared.apply(fxquant.disable_fake_quant)
    prepared(x).sum().backward()
    model(x).sum().backward()
    torch.testing.assert_close(prepared.first.weight.grad, model.first.weight.grad, atol=1e-3, rtol=1e-2)


def test_in_evaluation_they_do_not_matter() -> None:
    assert not pipeline.capture(Saves(_plain()).eval(), (torch.randn(4, 8),)).state.capture_notes
