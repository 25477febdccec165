"""What fixes say where no change of one statement is right, and that none is offered then."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxquant.check import Finding, FindingKind, check_traceable

ROWS = (torch.randn(4, 6),)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)


def found(model: nn.Module, kind: FindingKind, inputs: Any = ROWS) -> Finding:
    """The finding of a kind in a model."""
    torch.manual_seed(0)
    report = check_traceable(model.eval(), inputs)
    return next(item for item in report.findings if item.kind is kind)


class PickedRows(Layer):
    def forward(self, x: Tensor) -> Any:
        picked = x[x[:, 0] > 0]
        if picked.numel() == 0:
            picked = torch.zeros(1, 6)
        return self.first(picked)


class MaskOrNone(Layer):
    def forward(self, x: Tensor) -> Any:
        mask = None if bool((x > -9).all()) else x
        return self.first(x) if mask is None else self.first(x) * mask


class RepeatedList(Layer):
    def forward(self, x: Tensor) -> Any:
        return self.first(x) + torch.tensor([0, 1] * (x.shape[0] // 2))[:, None]


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (PickedRows, FindingKind.TENSOR_BRANCH),
        (MaskOrNone, FindingKind.TENSOR_BRANCH),
        (RepeatedList, FindingKind.FACTORY),
    ],
)
def test_a_change_with_which_the_model_does_not_run_is_not_offered(model: type[Layer], kind: FindingKind) -> None:
    finding = found(model(), kind)
    assert finding.edit is None and "torch.where" not in finding.fix and "torch.full" not in finding.fix


def test_a_change_with_which_the_model_returns_something_else_is_not_offered() -> None:
    class Index(Layer):
        def forward(self, x: Tensor) -> Any:
            return self.first(x), float(x.sum())

    assert found(Index(), FindingKind.TENSOR_NUMBER).edit is None


def test_all_modules_that_a_line_runs_in_are_named() -> None:
    class Counted(Layer):
        calls = 0

        def forward(self, x: Tensor) -> Any:
            self.calls += 1
            return self.first(x) if self.calls % 2 else torch.relu(self.first(x))

    model = nn.Sequential(Counted(), Counted())
    assert "set_non_traceable_module_names(['0', '1'])" in found(model, FindingKind.ATTRIBUTE_UPDATE).fix


def test_a_line_of_the_model_itself_is_not_put_in_a_module_that_it_calls() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.heads = nn.ModuleList(nn.Linear(6, 3) for _ in range(3))

        def forward(self, x: Tensor, which: Tensor) -> Any:
            return self.heads[which](self.first(x))

    finding = found(Routed(), FindingKind.TENSOR_NUMBER, (*ROWS, torch.tensor(1)))
    assert finding.module_path == ""
