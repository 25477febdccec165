"""Embeddings and embedding bags on integer tables."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from linears import assert_same, converted, modes, through_file, through_state_dict
from torch import Tensor, nn

import fxquant
from fxquant.numerics.sqnr import sqnr_db

BYTE, NIBBLE = fxquant.float_qparams_weight_only_qconfig, fxquant.float_qparams_weight_only_qconfig_4bit
BOTH = pytest.mark.parametrize(("qconfig", "db"), [(BYTE, 40), (NIBBLE, 16)], ids=["8 bits", "4 bits"])
INDICES = (torch.tensor([[1, 2, 3, 0], [0, 0, 9, 5], [3, 0, 19, 19]]), torch.tensor([4, 1, 0]))


@BOTH
@pytest.mark.parametrize("columns", [8, 7, 1])
def test_embeddings_are_the_reference(qconfig: fxquant.QConfig, db: float, columns: int) -> None:
    model = nn.Sequential(nn.Embedding(20, columns, padding_idx=0)).eval()
    reference, quantized = converted(model, qconfig, (INDICES[0],))
    assert modes(quantized) == {"_0": "weights" if qconfig is BYTE else "weights4"}
    for given in (*INDICES, INDICES[0].int(), torch.tensor(7), torch.empty(0, 3, dtype=torch.int64)):
        assert_same(reference(given), quantized(given))
    assert columns == 1 or sqnr_db(model(INDICES[0]), quantized(INDICES[0])) > db
    for copied in (through_file(quantized), through_state_dict(quantized)):
        assert torch.equal(copied(INDICES[0]), quantized(INDICES[0]))
    row = fxquant.explain(quantized).rows[0]
    assert row.outcome == "int8" and "rowwise_offsets" in row.kernel and "weights alone" in row.reason


class _Columns(nn.Module):
    """Looks up column by column, as decoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.bag = nn.Embedding(20, 8), nn.EmbeddingBag(20, 8, mode="sum")

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        starts = torch.arange(0, 6, device=x.device)[::2]
        bags: Tensor = self.bag(x[:, 2], starts[: x.shape[0]] // 2, weights[:, 1])
        return self.table(x[:, 1]) + bags


@BOTH
def test_indices_may_lie_anywhere(qconfig: fxquant.QConfig, db: float) -> None:
    model, weights = _Columns().eval(), torch.rand(3, 2)
    reference, quantized = converted(model, qconfig, (INDICES[0], weights))
    assert len(modes(quantized)) == 2
    assert_same(reference(INDICES[0], weights), quantized(INDICES[0], weights))
    assert sqnr_db(model(INDICES[0], weights), quantized(INDICES[0], weights)) > db


class _Bag(nn.Module):
    """An embedding bag called as given."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(20, 6, **arguments)

    def forward(self, x: Tensor, offsets: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
        result: Tensor = self.bag(x, offsets, per_sample_weights=weights)
        return result


FLAT = torch.tensor([1, 2, 3, 0, 0, 7, 19])
CALLS: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
    ({"mode": "sum"}, (INDICES[0],)),
    ({"mode": "mean"}, (INDICES[0],)),
    ({"mode": "mean", "padding_idx": 0}, (INDICES[0],)),
    ({"mode": "mean", "padding_idx": -20}, (torch.zeros(2, 3, dtype=torch.int64),)),
    ({"mode": "sum"}, (FLAT, torch.tensor([0, 2, 2, 5]))),
    ({"mode": "mean"}, (FLAT, torch.tensor([0, 2, 2, 5]))),
    ({"mode": "mean", "padding_idx": 0}, (FLAT.int(), torch.tensor([0, 2, 2, 5]).int())),
    ({"mode": "mean", "include_last_offset": True}, (FLAT, torch.tensor([0, 2, 2, 7]))),
    ({"mode": "sum", "padding_idx": 3}, (INDICES[0], None, torch.rand(3, 4))),
    ({"mode": "sum"}, (FLAT, torch.tensor([0, 3]), torch.rand(7))),
]


@BOTH
@pytest.mark.parametrize(("arguments", "inputs"), CALLS)
def test_bags_are_the_reference(
    arguments: dict[str, Any], inputs: tuple[Any, ...], qconfig: fxquant.QConfig, db: float
) -> None:
    model = _Bag(**arguments).eval()
    reference, quantized = converted(model, qconfig, inputs)
    assert set(modes(quantized).values()) == {"weights" if qconfig is BYTE else "weights4"}
    assert_same(reference(*inputs), quantized(*inputs))
    assert sqnr_db(model(*inputs), quantized(*inputs)) > db - 6
    assert torch.equal(through_file(quantized)(*inputs), quantized(*inputs))


class _Shared(nn.Module):
    """A table that is looked up twice, and used as the weight of the last linear."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.table(x) + F.embedding(x.flip(0), self.table.weight)
        return F.linear(y, self.table.weight)


def test_one_table_for_embedding_and_linear() -> None:
    model = _Shared().eval()
    quantized = fxquant.quantize(model, example_inputs=(INDICES[0],), dynamic=True)
    assert sorted(modes(quantized).values()) == ["dynamic", "weights", "weights"]
    assert sqnr_db(model(INDICES[0]), quantized(INDICES[0])) > 30


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (_Bag(mode="max"), "maximum of a bag"),
        (nn.Sequential(nn.Embedding(20, 4, max_norm=1.0)), "max_norm changes the table"),
    ],
)
def test_what_stays_float_says_why(model: nn.Module, why: str) -> None:
    observed = fxquant.prepare_fx(model.eval(), BYTE, (INDICES[0],))
    assert any(why in unit.reason for unit in observed.plan.units)


def test_an_embedding_feeds_integers() -> None:
    mapping = fxquant.get_default_qconfig_mapping().set_object_type(nn.Embedding, BYTE)
    net = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 4)).eval()
    reference, quantized = converted(net, mapping, (INDICES[0],))
    assert modes(quantized) == {"_0": "weights"} and quantized.plan.unit_of("_1").output
    assert sqnr_db(net(INDICES[0]), quantized(INDICES[0])) > 30
    assert sqnr_db(reference(INDICES[0]), quantized(INDICES[0])) > 40
