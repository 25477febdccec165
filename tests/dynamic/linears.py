"""Models and checks that the tests of dynamic quantization share."""

from __future__ import annotations

import copy
import io
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fxquant
from fxquant.ir.stages import QuantizedModel, ReferenceModel
from fxquant.numerics.sqnr import sqnr_db

ENGINES = tuple(
    name for name in ("x86", "fbgemm", "onednn", "qnnpack") if name in torch.backends.quantized.supported_engines
)


def converted(
    model: nn.Module, mapping: Any, inputs: tuple[Any, ...], engine: str = "x86"
) -> tuple[ReferenceModel, QuantizedModel]:
    """Prepare, run once, freeze and lower."""
    observed = fxquant.prepare_fx(model.eval(), mapping, inputs, backend_config=engine)
    observed(*inputs)
    return fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)


def assert_same(expected: Any, actual: Any, db: float = 110.0) -> None:
    """Both compute the same but for the order of float32 sums, which is 120 dB below the values."""
    for one, other in zip(pytree.tree_leaves(expected), pytree.tree_leaves(actual), strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert not one.numel() or torch.equal(one, other) or sqnr_db(one, other) > db


def through_file(model: nn.Module) -> nn.Module:
    """Save and load."""
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


def through_state_dict(model: nn.Module) -> nn.Module:
    """A copy of the model without its numbers, loaded with them."""
    other = copy.deepcopy(model)
    state = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    other.load_state_dict({**state, **{key: torch.ones_like(value) for key, value in state.items() if "scale" in key}})
    other.load_state_dict(model.state_dict())
    return other


def modes(model: Any) -> dict[str, str]:
    """Mode of each unit with one, by its anchor."""
    return {unit.anchor: unit.mode for unit in model.plan.units if unit.mode}


class Spelled(nn.Module):
    """linear as a module, a functional, with relu in several ways, and with neither bias nor batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(12, 16), nn.Linear(16, 10, bias=False), nn.Linear(10, 7)
        self.weight = nn.Parameter(torch.randn(9, 7))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        y = self.second(y).clamp(-0.5, 0.5)
        y = self.third(input=y).relu_()
        return F.linear(y, self.weight)


class Attention(nn.Module):
    """Three linears of one input, one of them followed by relu."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 12)
        self.last = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query(x), self.key(x), F.relu(self.value(x))
        result: Tensor = self.last(torch.softmax(query @ key.transpose(-1, -2), -1) @ value)
        return result
