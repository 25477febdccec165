"""Stages that only lead to others are compiled when something needs their code; what a user gets is compiled."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import pipeline
from fxquant.ir.stages import CapturedModel


class Small(nn.Module):
    """A linear and a relu."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, image: Tensor) -> Tensor:
        """Map [N, 4] to [N, 4] float32."""
        return torch.relu(self.linear(image))


def small() -> Small:
    torch.manual_seed(0)
    return Small().eval()


def captured() -> CapturedModel:
    return pipeline.capture(small(), (torch.ones(2, 4),))


def test_code_appears_when_it_is_asked_for() -> None:
    assert "_code" not in vars(captured())
    model = captured()
    assert torch.equal(model(torch.ones(2, 4)), small()(torch.ones(2, 4)))
    assert list(inspect.signature(model.forward).parameters) == ["image"]
    assert "image" in captured().code and "image" in str(captured())


@pytest.mark.parametrize("called_before", [False, True])
def test_a_changed_graph_is_what_runs(called_before: bool) -> None:
    model, x = captured(), -torch.ones(2, 4)
    if called_before:
        model(x)
    relu = next(node for node in model.graph.nodes if node.name == "relu")
    relu.replace_all_uses_with(relu.all_input_nodes[0])
    model.graph.erase_node(relu)
    model.recompile()
    assert torch.equal(model(x), small().linear(x))


def test_what_the_user_gets_is_compiled() -> None:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    observed = fxquant.prepare_fx(small(), fxquant.get_default_qconfig_mapping("x86"), (x,))
    observed(x)
    reference = fxquant.convert_to_reference_fx(observed)
    for model in (observed, reference, fxquant.convert_fx(observed), copy.deepcopy(reference)):
        assert list(inspect.signature(model.forward).parameters) == ["image"]
    retraced = fx.symbolic_trace(reference)
    assert torch.equal(retraced(x), reference(x))
