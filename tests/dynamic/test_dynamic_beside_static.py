"""Layers with static ranges in models whose default is dynamic, weight only or float."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from linears import converted
from torch import Tensor, nn

import fxquant
from fxquant.inspect.agreement import check_agreement
from fxquant.numerics.sqnr import sqnr_db


class _Parts(nn.Module):
    """A linear that reads one of several results of a float value."""

    def __init__(self, take: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.take, self.last = take, nn.Linear(1, 4)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.last(self.take(x + x)))


@pytest.mark.parametrize("default", [fxquant.per_channel_dynamic_qconfig, fxquant.default_weight_only_qconfig, None])
@pytest.mark.parametrize(
    "take",
    [
        lambda x: x.max(-1, keepdim=True).values,
        lambda x: x.split(1, -1)[1],
        lambda x: torch.sort(x)[0][..., :1],
        lambda x: torch.cat([x.split(1, -1)[0], x], -1)[..., :1],
    ],
)
def test_a_static_layer_measures_what_it_takes_of_a_dynamic_one(take: Callable[[Tensor], Tensor], default: Any) -> None:
    mapping = fxquant.QConfigMapping().set_global(default)
    mapping.set_module_name("last", fxquant.get_default_qconfig("x86"))
    torch.manual_seed(0)
    model, x = _Parts(take), torch.randn(16, 5)
    reference, quantized = converted(model, mapping, (x,))
    assert [row.outcome for row in fxquant.explain(quantized).rows if row.op == "linear"] == ["int8"]
    assert not check_agreement(reference, quantized, x).violations
    assert sqnr_db(model(x), quantized(x)) > 35
