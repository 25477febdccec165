"""Numbers that no seed decides: a graph must draw them anew, though eager never repeats what the trace saw."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import pipeline
from fxquant.errors import CaptureError


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.system = nn.Linear(8, 8), random.SystemRandom()


class GeneratorMade(Layer):
    def forward(self, x: Tensor) -> Any:
        return self.linear(x) * float(np.random.default_rng().random())


class SystemGeneratorMade(Layer):
    def forward(self, x: Tensor) -> Any:
        return self.linear(x) * random.SystemRandom().random()


class SystemGeneratorHeld(Layer):
    def forward(self, x: Tensor) -> Any:
        return self.linear(x) * self.system.random()


@pytest.mark.parametrize("kind", [GeneratorMade, SystemGeneratorMade, SystemGeneratorHeld])
def test_each_call_draws_anew(kind: type[Layer]) -> None:
    x = torch.randn(4, 8)
    captured = pipeline.capture(kind().eval(), (x,))
    assert len({float(captured(x).detach().sum()) for _ in range(6)}) > 3
    report = fxquant.check_traceable(kind().eval(), (x,))
    assert report.ok and not report.proof.comparable, str(report)


class KeepsDropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop = nn.Linear(8, 8), nn.Dropout(0.5)

    def train(self, mode: bool = True) -> KeepsDropping:
        super().train(mode)
        self.drop.train(True)
        return self

    def forward(self, x: Tensor) -> Any:
        return self.drop(self.linear(x))


def test_eval_that_leaves_a_module_in_training_is_refused_for_training() -> None:
    with pytest.raises(CaptureError, match=r"eval\(\) of the model leaves 'drop' in training mode"):
        fxquant.prepare_qat_fx(KeepsDropping().train(), fxquant.QConfigMapping(), (torch.randn(2, 8),))
