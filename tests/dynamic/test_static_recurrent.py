"""Recurrent layers on ranges that calibration finds: asked for by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from linears import ENGINES, modes, through_file, through_state_dict
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils import _pytree as pytree

import fxquant
from fxquant.errors import CalibrationError
from fxquant.inspect.agreement import check_agreement
from fxquant.numerics.sqnr import sqnr_db

pytestmark = [
    pytest.mark.skipif("onednn" not in torch.backends.quantized.supported_engines, reason="needs onednn"),
    pytest.mark.filterwarnings("ignore:LSTM with projections"),
]
LAYERS: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (nn.LSTM, {}),
    (nn.LSTM, {"batch_first": True, "num_layers": 2, "bidirectional": True}),
    (nn.LSTM, {"proj_size": 4, "bias": False}),
    (nn.GRU, {}),
    (nn.GRU, {"batch_first": True, "num_layers": 2, "bidirectional": True, "bias": False}),
    (nn.RNN, {"nonlinearity": "relu", "num_layers": 2}),
]


class _Layer(nn.Module):
    """A recurrent layer between two linears, with or without a state to start from."""

    def __init__(self, kind: type[nn.Module], **arguments: Any) -> None:
        super().__init__()
        self.first, self.layer = nn.Linear(10, 10), kind(10, 6, **arguments)
        directions = 2 if arguments.get("bidirectional") else 1
        self.last = nn.Linear(arguments.get("proj_size", 6) * directions, 3)

    def forward(self, x: Tensor, state: Any = None) -> Any:
        y = self.first(x)
        outputs, last = self.layer(y) if state is None else self.layer(y, state)
        return self.last(outputs), last


def _state(model: _Layer, batch: tuple[int, ...]) -> Any:
    layer: Any = model.layer
    leading = layer.num_layers * (2 if layer.bidirectional else 1)
    states = [torch.rand(leading, *batch, layer.proj_size or 6), torch.rand(leading, *batch, 6)]
    return tuple(states) if isinstance(layer, nn.LSTM) else states[0]


def _mapping(kind: type[nn.Module]) -> fxquant.QConfigMapping:
    return fxquant.get_default_qconfig_mapping().set_object_type(kind, fxquant.get_default_qconfig())


def _calibrated(model: nn.Module, mapping: Any, batches: list[tuple[Any, ...]], **options: Any) -> Any:
    observed = fxquant.prepare_fx(model, mapping, batches[0], **options)
    for batch in batches:
        observed(*batch)
    return observed


def _leaves(value: Any) -> list[Tensor]:
    return [item for item in pytree.tree_leaves(value) if isinstance(item, Tensor)]


def _same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(_leaves(one), _leaves(other), strict=True))


def _far(one: Any, other: Any) -> float:
    return min(sqnr_db(a, b) for a, b in zip(_leaves(one), _leaves(other), strict=True))


@pytest.mark.parametrize(("kind", "arguments"), LAYERS)
@pytest.mark.parametrize("with_state", [False, True])
@torch.no_grad()
def test_layers_are_exactly_the_reference(kind: type[nn.Module], arguments: dict[str, Any], with_state: bool) -> None:
    model = _Layer(kind, **arguments).eval()
    data = [torch.randn(5, 5, 10) for _ in range(4)]
    batches = [(x, _state(model, (5,))) if with_state else (x,) for x in data]
    observed = _calibrated(
        model, fxquant.QConfigMapping().set_object_type(kind, fxquant.get_default_qconfig()), batches
    )
    assert set(model.state_dict()) <= set(observed.state_dict())
    assert _same(model(*batches[0]), observed(*batches[0]))
    reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed, verify=True)
    assert modes(quantized) == {"layer": "static"}
    for batch in (*batches, (torch.randn(40, 5, 10), *batches[0][1:]), (data[0][:, :3],) if not with_state else ()):
        if batch and not (with_state and arguments.get("batch_first")):
            assert _same(reference(*batch), quantized(*batch))
    assert _far(model(*batches[0]), quantized(*batches[0])) > 30
    for copy in (through_file(quantized), through_state_dict(quantized)):
        assert _same(copy(*batches[0]), quantized(*batches[0]))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@torch.no_grad()
def test_any_length_runs_in_one_loop(kind: type[nn.Module]) -> None:
    model, x = _Layer(kind, batch_first=True).eval(), torch.randn(16, 60, 10)
    observed = _calibrated(model, _mapping(kind), [(x,)])
    reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
    assert {unit.anchor: unit.outcome for unit in quantized.plan.units}["first"] == "int8"
    assert len([node for node in quantized.graph.nodes if node.op == "call_module"]) == 5
    for length in (1, 7, 60):
        given = torch.randn(2, length, 10)
        assert _same(reference(given)[1], quantized(given)[1])
        assert _far(model(given), quantized(given)) > 22
    assert _same(reference(x[0])[1], quantized(x[0])[1])  # without a batch
    assert _same(reference(x[:0]), quantized(x[:0])) and quantized(x[:0])[0].shape == (0, 60, 3)


@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_every_engine_and_large_sums(engine: str) -> None:
    model, x = nn.Sequential(nn.LSTM(1500, 16)).eval(), torch.rand(3, 2, 1500)
    nn.init.uniform_(model[0].weight_ih_l0, 0.0, 0.05)
    observed = _calibrated(model, _mapping(nn.LSTM), [(x,)], backend_config=engine)
    reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
    assert _same(reference(x), quantized(x))
    agreement = check_agreement(reference, quantized, x)
    assert [row.differing for row in agreement.rows if row.op == "lstm"] == [0]


class _Packed(nn.Module):
    """Sequences of several lengths, in one batch."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.layer = kind(10, 6, 2, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        outputs, last = self.layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return pad_packed_sequence(outputs)[0], last


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@torch.no_grad()
def test_packed_sequences(kind: type[nn.Module]) -> None:
    model, inputs = _Packed(kind).eval(), (torch.randn(6, 3, 10), torch.tensor([2, 6, 4]))
    observed = _calibrated(model, _mapping(kind), [inputs])
    reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
    assert modes(quantized) == {"layer": "static"}
    assert _same(reference(*inputs), quantized(*inputs))
    assert _far(model(*inputs), quantized(*inputs)) > 30


class _Cells(nn.Module):
    """Cells, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.LSTMCell(10, 6), nn.GRUCell(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        state = self.one(x)
        result: Tensor = self.two(self.one(x * 2, state)[0])
        return result


@torch.no_grad()
def test_cells() -> None:
    model, x = _Cells().eval(), torch.randn(4, 10)
    static = fxquant.get_default_qconfig()
    mapping = fxquant.QConfigMapping().set_object_type(nn.LSTMCell, static).set_module_name("two", static)
    observed = _calibrated(model, mapping, [(x,)])
    reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
    assert list(modes(quantized).values()) == ["static"] * 3
    assert torch.equal(reference(x), quantized(x)) and sqnr_db(model(x), quantized(x)) > 28


@torch.no_grad()
def test_asking_for_it() -> None:
    model, x = _Layer(nn.GRU).eval(), torch.randn(5, 2, 10)
    static, whole = fxquant.get_default_qconfig(), fxquant.get_default_qconfig_mapping
    dynamic = fxquant.per_channel_dynamic_qconfig
    for mapping, mode in (
        (whole(), ""),
        (whole().set_module_name("", static), ""),
        (whole().set_module_name("layer", static), "static"),
        (whole().set_module_name_object_type_order("", nn.GRU, 0, static), "static"),
        (whole().set_object_type(nn.GRU, static), "static"),
        (whole().set_object_type(nn.GRU, dynamic), "dynamic"),
        (whole().set_object_type(nn.GRU, None), ""),
    ):
        observed = _calibrated(model, mapping, [(x,)])
        unit = observed.plan.unit_of("layer")
        assert (unit.mode, unit.outcome) == (mode, "int8" if mode else "float")
    reason = _calibrated(model, whole(), [(x,)]).plan.unit_of("layer").reason
    assert "unless an entry names their type or their module" in reason


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_what_torch_ao_calls_it() -> None:
    quantizable = pytest.importorskip("torch.ao.nn.quantizable")
    model, x = _Layer(nn.LSTM).eval(), torch.randn(5, 2, 10)
    custom = fxquant.PrepareCustomConfig().set_float_to_observed_mapping(nn.LSTM, quantizable.LSTM)
    observed = _calibrated(model, fxquant.get_default_qconfig_mapping(), [(x,)], prepare_custom_config=custom)
    quantized = fxquant.convert_fx(observed)  # torch.ao needs a state to start from, and a class for convert
    assert modes(quantized) == {"layer": "static"} and _far(model(x), quantized(x)) > 25


@torch.no_grad()
def test_explanations_and_what_is_missing() -> None:
    model, x = _Layer(nn.LSTM).eval(), torch.randn(5, 2, 10)
    observed = fxquant.prepare_fx(model, _mapping(nn.LSTM), (x,))
    with pytest.raises(CalibrationError, match="saw no data"):
        fxquant.convert_fx(observed)
    observed(x)
    (row,) = [row for row in fxquant.explain(fxquant.convert_fx(observed)).rows if row.op == "lstm"]
    assert row.outcome == "int8" and row.kernel.startswith("onednn.qlinear_pointwise")
    assert "a range for what each gate gets" in row.reason
    with pytest.raises(CalibrationError, match="NaN"):
        observed(x * float("nan"))
    assert isinstance(pack_padded_sequence(x, torch.tensor([5, 5])), PackedSequence)
