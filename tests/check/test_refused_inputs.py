"""Graphs that refuse, or fail on, inputs that eager takes: the report says so even where each cause is handled."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.check.finding import FindingKind, Severity


class SetsByValue(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y, mask = self.first(x), None
        if x.mean() > 0:
            mask = y > 0
        if mask is not None:
            y = y.masked_fill(mask, 0.0)
        z: Tensor = self.last(y)
        return z


class HidesPadding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor, kept: Tensor | None) -> Tensor:
        if torch.all(kept == 1):  # type: ignore[arg-type]
            kept = None
        y: Tensor = self.linear(x)
        return y if kept is None else y.masked_fill(kept[..., None] == 0, 0.0)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [(SetsByValue(), (torch.rand(4, 8),)), (HidesPadding(), (torch.randn(2, 5, 8), torch.ones(2, 5)))],
)
def test_a_graph_that_refuses_other_values_is_warned_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    report = fxquant.check_traceable(model.eval(), inputs)
    (found,) = report.of(Severity.WARNING)
    assert found.kind is FindingKind.HIDDEN_CASE and "refuses" in found.message and found.line
    assert "1 warning" in report.verdict and "nothing has to change" not in str(report)
