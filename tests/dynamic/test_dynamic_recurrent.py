"""Recurrent layers and cells with int8 or float16 weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from linears import ENGINES, assert_same, converted, modes, through_file, through_state_dict
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils import _pytree as pytree

import fxquant
from fxquant.numerics.sqnr import sqnr_db

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")
INT8, HALF = fxquant.per_channel_dynamic_qconfig, fxquant.float16_dynamic_qconfig
BOTH = pytest.mark.parametrize(("qconfig", "db"), [(INT8, 30), (HALF, 60)], ids=["int8", "float16"])
LAYERS: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (kind, arguments)
    for kind in (nn.LSTM, nn.GRU, nn.RNN)
    for arguments in (
        {},
        {"batch_first": True, "bias": False},
        {"num_layers": 2, "bidirectional": True, "dropout": 0.5},
        {"num_layers": 2, "batch_first": True, "bidirectional": True},
    )
] + [
    (nn.LSTM, {"proj_size": 4}),
    (nn.LSTM, {"proj_size": 4, "num_layers": 2, "bidirectional": True, "batch_first": True}),
    (nn.RNN, {"nonlinearity": "relu"}),
]


class _Layer(nn.Module):
    """A recurrent layer, with or without a state to start from."""

    def __init__(self, kind: type[nn.Module], **arguments: Any) -> None:
        super().__init__()
        self.layer = kind(10, 6, **arguments)

    def forward(self, x: Any, state: Any = None) -> Any:
        outputs, last = self.layer(x) if state is None else self.layer(x, state)
        return outputs, last


def _state(model: _Layer, batch: tuple[int, ...]) -> Any:
    layer: Any = model.layer
    leading = layer.num_layers * (2 if layer.bidirectional else 1)
    states = [torch.randn(leading, *batch, layer.proj_size or 6), torch.randn(leading, *batch, 6)]
    return tuple(states) if isinstance(layer, nn.LSTM) else states[0]


def _far(model: nn.Module, quantized: nn.Module, *inputs: Any) -> float:
    pairs = zip(pytree.tree_leaves(model(*inputs)), pytree.tree_leaves(quantized(*inputs)), strict=True)
    return min(sqnr_db(one, other) for one, other in pairs)


@BOTH
@pytest.mark.parametrize(("kind", "arguments"), LAYERS)
@torch.no_grad()
def test_layers_are_the_reference(
    kind: type[nn.Module], arguments: dict[str, Any], qconfig: fxquant.QConfig, db: float
) -> None:
    model, x = _Layer(kind, **arguments).eval(), torch.randn(3, 5, 10)
    reference, quantized = converted(model, qconfig, (x,))
    assert list(modes(quantized).values()) == ["dynamic" if qconfig is INT8 else "float16"]
    none = x[:0] if arguments.get("batch_first") else x[:, :0]
    for given in (x, torch.randn(4, 4, 10), x[:1], none):  # another length, another batch, an empty one
        assert_same(reference(given), quantized(given))
    assert _far(model, quantized, x) > db
    assert_same(quantized(x), through_file(quantized)(x))
    assert_same(quantized(x), through_state_dict(quantized)(x))
    steps = kind is nn.RNN or "proj_size" in arguments
    kernel = fxquant.explain(quantized).rows[0].kernel
    assert kernel.startswith("quantized.linear_dynamic" if steps else f"aten.quantized_{kind.__name__.lower()}")


@BOTH
@pytest.mark.parametrize(("kind", "arguments"), LAYERS)
@torch.no_grad()
def test_states_are_taken(
    kind: type[nn.Module], arguments: dict[str, Any], qconfig: fxquant.QConfig, db: float
) -> None:
    model = _Layer(kind, **arguments).eval()
    for x, batch in ((torch.randn(5, 5, 10), (5,)), (torch.randn(4, 10), ())):
        state = _state(model, batch)
        reference, quantized = converted(model, qconfig, (x, state))
        assert_same(reference(x, state), quantized(x, state))
        assert _far(model, quantized, x, state) > db


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@torch.no_grad()
def test_every_engine(kind: type[nn.Module], engine: str) -> None:
    model, x = _Layer(kind).eval(), torch.randn(3, 5, 10)
    for qconfig in (INT8, fxquant.default_dynamic_qconfig, HALF):
        reference, quantized = converted(model, qconfig, (x,), engine)
        for given in (x, x[:, :0]):
            assert_same(reference(given), quantized(given))


class _Cell(nn.Module):
    """A cell, stepped by hand."""

    def __init__(self, kind: type[nn.Module], **arguments: Any) -> None:
        super().__init__()
        self.cell = kind(10, 6, **arguments)

    def forward(self, x: Tensor) -> Any:
        state = self.cell(x)
        return self.cell(x * 2, state)


CELLS: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (nn.LSTMCell, {}),
    (nn.GRUCell, {}),
    (nn.RNNCell, {}),
    (nn.RNNCell, {"nonlinearity": "relu", "bias": False}),
]


@BOTH
@pytest.mark.parametrize(("kind", "arguments"), CELLS)
@torch.no_grad()
def test_cells_are_the_reference(
    kind: type[nn.Module], arguments: dict[str, Any], qconfig: fxquant.QConfig, db: float
) -> None:
    model = _Cell(kind, **arguments).eval()
    for x in (torch.randn(3, 10), torch.randn(10)):
        reference, quantized = converted(model, qconfig, (x,))
        assert len(modes(quantized)) == 2
        assert_same(reference(x), quantized(x))
        assert _far(model, quantized, x) > db


class _Packed(nn.Module):
    """Sequences of several lengths, in one batch."""

    def __init__(self, kind: type[nn.Module], is_sorted: bool, **arguments: Any) -> None:
        super().__init__()
        self.layer, self.is_sorted = kind(10, 6, **arguments), is_sorted

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        packed = pack_padded_sequence(x, lengths, enforce_sorted=self.is_sorted)
        outputs, last = self.layer(packed)
        padded, _ = pad_packed_sequence(outputs)
        return padded, last


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("is_sorted", [True, False])
@torch.no_grad()
def test_packed_sequences(kind: type[nn.Module], is_sorted: bool) -> None:
    model = _Packed(kind, is_sorted, num_layers=2, bidirectional=True).eval()
    x, lengths = torch.randn(6, 3, 10), torch.tensor([6, 4, 2] if is_sorted else [2, 6, 4])
    reference, quantized = converted(model, INT8, (x, lengths))
    assert list(modes(quantized).values()) == ["dynamic"]
    assert_same(reference(x, lengths), quantized(x, lengths))
    assert _far(model, quantized, x, lengths) > 30


class _Named(nn.Module):
    """Inputs by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.cell = nn.LSTM(10, 6), nn.GRUCell(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y, (h, _) = self.layer(input=x)
        result: Tensor = self.cell(hx=h[0], input=self.layer(hx=(h, h), input=x)[0][-1] + y[0])
        return result


@torch.no_grad()
def test_inputs_by_keyword() -> None:
    model, x = _Named().eval(), torch.randn(3, 5, 10)
    static = fxquant.get_default_qconfig("x86")
    for mapping in (INT8, HALF, fxquant.QConfigMapping().set_object_type(nn.LSTM, static)):
        reference, quantized = converted(model, mapping, (x,))
        assert len(modes(quantized)) == (2 if isinstance(mapping, fxquant.QConfigMapping) else 3)
        assert_same(reference(x), quantized(x))
        assert _far(model, quantized, x) > 28


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@torch.no_grad()
def test_a_recurrent_module_is_a_model(kind: Any) -> None:
    model, is_cell = kind(10, 6).eval(), issubclass(kind, nn.RNNCellBase)
    x = torch.randn(5, 10) if is_cell else torch.randn(3, 5, 10)
    static = fxquant.QConfigMapping().set_object_type(kind, fxquant.get_default_qconfig("x86"))
    for mapping, mode in ((INT8, "dynamic"), (HALF, "float16"), (static, "static")):
        reference, quantized = converted(model, mapping, (x,))
        assert list(modes(quantized).values()) == [mode]
        assert_same(reference(x), quantized(x))
        assert _far(model, quantized, x) > 28
        assert_same(quantized(x), through_file(quantized)(x))
    quantized = fxquant.quantize(model, example_inputs=(x,), dynamic=True)
    assert "layer" in str(fxquant.graph_diff(model, quantized))
    assert fxquant.compare(model, quantized, [(x,)]).batches == 1
    assert fxquant.profile(quantized, (x,), float_model=model).rows


class _Halved(nn.LSTM):
    """A layer whose forward does more than that of its base."""

    def forward(self, x: Tensor, hx: Any = None) -> Any:  # type: ignore[override]
        return super().forward(x * 0.5, hx)[0].relu()


class _Shifted(nn.BatchNorm1d):
    """The same for a batch norm."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sigmoid() * 2 - 1


@torch.no_grad()
def test_a_forward_of_its_own_is_kept() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm, self.drop = _Halved(10, 6), _Shifted(5), _Tripled()

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(self.norm(self.layer(x)))

    model, x = Both().eval(), torch.randn(3, 5, 10)
    static = fxquant.get_default_qconfig_mapping("x86").set_object_type(_Halved, fxquant.get_default_qconfig("x86"))
    for mapping in (fxquant.get_default_dynamic_qconfig_mapping(), static):
        _, quantized = converted(model, mapping, (x,))
        assert "forward of its own" in quantized.plan.unit_of("layer").reason
        assert sqnr_db(model(x), quantized(x)) > 28
    assert torch.allclose(fxquant.fuse_fx(model, example_inputs=(x,))(x), model(x), atol=1e-6)


class _Tripled(nn.Dropout):
    """The same for a dropout."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 3


class _Spoken(nn.Module):
    """Packed sequences between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.GRU(12, 8), nn.LSTM(8, 8)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed, _ = self.first(pack_padded_sequence(x, lengths))
        padded: Tensor = pad_packed_sequence(self.second(packed)[0])[0]
        return padded


@torch.no_grad()
def test_packed_sequences_are_verified() -> None:
    model, x, lengths = _Spoken().eval(), torch.randn(6, 3, 12), torch.tensor([6, 4, 1])
    quantized = fxquant.quantize(model, example_inputs=(x, lengths), dynamic=True)
    assert set(modes(quantized).values()) == {"dynamic"} and _far(model, quantized, x, lengths) > 30


class _Speech(nn.Module):
    """Two layers and a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.last = nn.LSTM(12, 16, 2), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.layers(x)
        result: Tensor = self.last(y)
        return result


@torch.no_grad()
def test_one_call_and_entries() -> None:
    model, x = _Speech().eval(), torch.randn(20, 1, 12)
    quantized = fxquant.quantize(model, example_inputs=(x,), dynamic=True)
    assert modes(quantized) == {"layers": "dynamic", "last": "dynamic"} and _far(model, quantized, x) > 30
    mapping = fxquant.get_default_qconfig_mapping().set_object_type(nn.LSTM, INT8)
    _, mixed = converted(model, mapping, (x,))
    assert modes(mixed) == {"layers": "dynamic"} and mixed.plan.unit_of("last").output
    mapping.set_object_type(nn.LSTM, None)
    assert "excluded" in fxquant.prepare_fx(model, mapping, (x,)).plan.unit_of("layers").reason
    static = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (x,)).plan.unit_of("layers")
    assert static.outcome == "float" and "calibration" in static.reason
