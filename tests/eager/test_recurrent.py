"""Recurrent layers and cells between stubs."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils import _pytree as pytree

import fxquant
from fxquant import eager
from fxquant.errors import CalibrationError
from fxquant.numerics.sqnr import sqnr_db

pytestmark = pytest.mark.skipif("onednn" not in torch.backends.quantized.supported_engines, reason="needs onednn")
LAYERS: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (nn.LSTM, {}),
    (nn.LSTM, {"batch_first": True, "num_layers": 2, "bidirectional": True}),
    (nn.GRU, {"num_layers": 2}),
    (nn.RNN, {"bias": False}),
]


class _Between(nn.Module):
    """A layer between linears, and a linear of its last hidden state."""

    def __init__(self, style: Any, kind: type[nn.Module], **arguments: Any) -> None:
        super().__init__()
        self.quant, self.dequant, self.first = style.QuantStub(), style.DeQuantStub(), nn.Linear(8, 8)
        self.layer, both = kind(8, 6, **arguments), 2 if arguments.get("bidirectional") else 1
        self.last, self.summary = nn.Linear(6 * both, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        y = self.first(self.quant(x))
        outputs, last = self.layer(y) if state is None else self.layer(y, state)
        hidden = last[0] if isinstance(last, tuple) else last
        return self.dequant(self.last(outputs)), self.dequant(self.summary(hidden))


def _far(one: Any, other: Any) -> float:
    return min(sqnr_db(a, b) for a, b in zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True))


def _by_hand(style: Any, qconfig: Any, model: nn.Module, *batches: tuple[Any, ...]) -> nn.Module:
    model.qconfig = qconfig
    prepared = style.prepare(model)
    for batch in batches:
        prepared(*batch)
    return style.convert(prepared)


@pytest.mark.parametrize(("kind", "arguments"), LAYERS)
@torch.no_grad()
def test_layers_compute_on_integers(kind: type[nn.Module], arguments: dict[str, Any]) -> None:
    model, x = _Between(eager, kind, **arguments).eval(), torch.randn(5, 5, 8)
    shape = (model.layer.num_layers * (2 if model.layer.bidirectional else 1), 5, 6)
    state = (torch.rand(shape), torch.rand(shape)) if kind is nn.LSTM else torch.rand(shape)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    quantized = _by_hand(eager, fxquant.get_default_qconfig("x86"), model, (x,), (x, state))
    assert model.state_dict().keys() == before.keys()
    assert quantized.layer.layer.weight_ih_l0.dtype == torch.int8
    for inputs in ((x,), (x, state)):
        assert _far(model(*inputs), quantized(*inputs)) > 27
        for copied in (copy.deepcopy(quantized), _reloaded(quantized)):
            assert all(torch.equal(a, b) for a, b in zip(copied(*inputs), quantized(*inputs), strict=True))


def _reloaded(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_not_less_exact_than_torch_ao() -> None:
    theirs = pytest.importorskip("torch.ao.quantization")
    torch.manual_seed(0)
    model, x = _Between(eager, nn.LSTM).eval(), torch.randn(30, 4, 8)
    other = _Between(theirs, nn.LSTM).eval()
    other.load_state_dict(model.state_dict())
    ours = _by_hand(eager, fxquant.get_default_qconfig("x86"), model, (x,))(x)
    assert _far(model(x), ours) > _far(model(x), _by_hand(theirs, theirs.get_default_qconfig("x86"), other, (x,))(x))


@torch.no_grad()
def test_a_layer_alone_is_that_of_a_graph() -> None:
    model, x = nn.LSTM(8, 6).eval(), torch.randn(7, 3, 8)
    mapping = fxquant.QConfigMapping().set_object_type(nn.LSTM, fxquant.get_default_qconfig())
    root = nn.Sequential(model).eval()
    observed = fxquant.prepare_fx(root, mapping, (x,))
    observed(x)
    by_hand = _by_hand(eager, fxquant.get_default_qconfig(), copy.deepcopy(root), (x,))
    pairs = zip(pytree.tree_leaves(by_hand(x)), pytree.tree_leaves(fxquant.convert_fx(observed)(x)), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)  # floats in, floats out


class _Cells(nn.Module):
    """Cells stepped by hand, then packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant, self.cell, self.gate = eager.QuantStub(), eager.DeQuantStub(), *_cells()
        self.layer = nn.GRU(8, 6)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        state = None
        for step in x:
            state = self.cell(self.quant(step), state)
        packed, _ = self.layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return self.dequant(self.gate(state[0])), pad_packed_sequence(packed)[0]


def _cells() -> tuple[nn.Module, nn.Module]:
    return nn.LSTMCell(8, 6), nn.GRUCell(6, 4)


@torch.no_grad()
def test_cells_and_packed_sequences() -> None:
    model, inputs = _Cells().eval(), (torch.randn(6, 3, 8), torch.tensor([2, 6, 4]))
    assert _far(model(*inputs), _by_hand(eager, fxquant.get_default_qconfig(), model, inputs)(*inputs)) > 25


def test_a_layer_without_a_qconfig_stays_float() -> None:
    model = _Between(eager, nn.GRU).eval()
    model.qconfig, model.layer.qconfig = fxquant.get_default_qconfig(), None
    assert not list(eager.prepare(model).layer.children())
    with pytest.raises(CalibrationError, match="saw no data"):
        eager.convert(eager.prepare(model))
