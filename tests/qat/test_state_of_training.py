"""What training changes and evaluation reads; modes, hooks and buffers that the user set by hand."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.errors import CaptureError

ROWS = torch.linspace(-1, 1, 32).reshape(4, 8)
FLOAT = fxquant.QConfigMapping()


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.count, self.average = nn.Linear(8, 8), 0, torch.zeros(8)
        self.history: list[Tensor] = []
        self.options = types.SimpleNamespace(scale=1.0)
        self.register_buffer("centre", torch.zeros(8))


class Counter(Layer):
    def forward(self, x: Tensor) -> Any:
        if self.training:
            self.count += 1
        return self.linear(x) * (1 + self.count)


class WarmUp(Layer):
    """Evaluation reads the counter only after some calls."""

    def forward(self, x: Tensor) -> Any:
        if self.training:
            self.count += 1
        y = self.linear(x)
        return y.relu() if self.count > 3 else y


class Average(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if self.training:
            self.average = 0.9 * self.average + 0.1 * y.detach().mean(0)
        return y - self.average


class History(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if self.training:
            self.history.append(y.detach().mean())
        return y - (sum(self.history) if self.history else 0.0)


class Options(Layer):
    def forward(self, x: Tensor) -> Any:
        if self.training:
            self.options.scale *= 0.9
        return self.linear(x) * self.options.scale


class ReboundInPart(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if self.training and y.abs().mean() > 0:
            self.centre = self.centre * 0.9 + y.detach().mean(0) * 0.1
        return y - self.centre


ATTRIBUTES = [Counter, WarmUp, Average, History, Options]


def _follow(model: nn.Module, prepared: nn.Module) -> None:
    for training in (True, True, False, True, True, True, False):
        expected, found = model.train(training)(ROWS), prepared.train(training)(ROWS)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", [*ATTRIBUTES, ReboundInPart])
def test_evaluation_reads_what_training_made(kind: type[Layer]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), kind(), nn.Linear(8, 8)).train()
    prepared = fxquant.prepare_qat_fx(model, FLOAT, (ROWS,))
    if kind in ATTRIBUTES:
        assert any("training changes what evaluation reads" in note for note in prepared.state.capture_notes)
    _follow(model, prepared)


@pytest.mark.parametrize("kind", ATTRIBUTES)
def test_a_model_that_does_so_itself_is_refused(kind: type[Layer]) -> None:
    with pytest.raises(CaptureError, match="changes attributes in training, which evaluation reads"):
        fxquant.prepare_qat_fx(kind().train(), FLOAT, (ROWS,))


def test_buffers_that_the_model_itself_sets_anew() -> None:
    torch.manual_seed(0)
    model = ReboundInPart().train()
    _follow(model, fxquant.prepare_qat_fx(model, FLOAT, (ROWS,)))


class Shift(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x + 100 if self.training else x


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x if self.training else x * 2


@pytest.mark.parametrize("kind", [Shift, Doubled])
def test_the_mode_that_a_part_was_set_to_is_its_mode(kind: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 8), kind()), nn.Linear(8, 8)).train()
    model[0].eval()
    prepared = fxquant.prepare_qat_fx(model, FLOAT, (ROWS,))
    torch.testing.assert_close(prepared(ROWS), model(ROWS))
    torch.testing.assert_close(prepared.train()(ROWS), model.train()(ROWS))
    torch.testing.assert_close(prepared.eval()(ROWS), model.eval()(ROWS))


def _clamp(parameter: Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad.clamp_(-0.1, 0.1)


def test_hooks_that_run_when_a_gradient_is_there() -> None:
    model = nn.Sequential(nn.Linear(8, 8)).train()
    model[0].weight.register_post_accumulate_grad_hook(_clamp)
    prepared = fxquant.prepare_qat_fx(model, FLOAT, (ROWS,))
    for item in (model, prepared):
        item(ROWS * 9).abs().sum().backward()
    grads = [parameter.grad for name, parameter in prepared.named_parameters() if name.endswith("weight")]
    assert len(grads) == 1 and grads[0] is not None and model[0].weight.grad is not None
    assert torch.equal(grads[0], model[0].weight.grad) and float(grads[0].abs().max()) <= 0.1001


class LeavesOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1)) for _ in range(3))

    def forward(self, x: Tensor) -> Any:
        for layer in self.layers:
            if self.training and torch.rand(()) < 0.1:
                continue
            x = x + layer(x)
        return x


def test_layers_that_training_calls_in_a_part_are_refused_with_the_part() -> None:
    with pytest.raises(CaptureError, match=r"in training by lines? .* of LeavesOut\.forward"):
        fxquant.prepare_qat_fx(LeavesOut().train(), FLOAT, (ROWS,))
