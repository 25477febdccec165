"""Inputs and outputs that are integers in converted models: ``set_input_quantized_indexes`` and the output ones."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import FxquantError, PrepareCustomConfig, get_default_qconfig_mapping, quantized_borders
from fxquant.inspect.agreement import check_agreement


class Net(nn.Module):
    """Two convolutions around a pooling; a second result in float."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z = F.max_pool2d(self.first(x).relu(), 2)
        return self.second(z), z.mean((2, 3)) + y


X, Y = torch.randn(4, 3, 12, 12), torch.randn(4, 8)


def _observed(inputs: list[int], outputs: list[int], model: nn.Module | None = None) -> Any:
    config = PrepareCustomConfig().set_input_quantized_indexes(inputs).set_output_quantized_indexes(outputs)
    observed = fxquant.prepare_fx((model or Net()).eval(), get_default_qconfig_mapping(), (X, Y), config)
    observed(X, Y)
    return observed


def _quint8(x: Tensor, scale: float, zero_point: int) -> Tensor:
    return torch.quantize_per_tensor(x, scale, zero_point, torch.quint8)


def _quantizes(model: Any, value: str) -> bool:
    return any(node.name == f"{value}_quantize" for node in model.graph.nodes)


def test_prepared_models_take_and_return_float() -> None:
    observed, net = _observed([0], [0]), Net().eval()
    net.load_state_dict({key: value for key, value in observed.state_dict().items() if key in net.state_dict()})
    assert all(torch.equal(one, other) for one, other in zip(observed(X, Y), net(X, Y), strict=True))


def test_converted_models_take_and_return_integers() -> None:
    observed = _observed([0], [0])
    reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
    known = quantized_borders(reference)
    assert known.inputs == quantized_borders(quantized).inputs and set(known.inputs) == {"x"}
    x = _quint8(X, known.inputs["x"].scale, known.inputs["x"].zero_point)
    (integers, rest), (plain, same_rest) = quantized(x, Y), reference(x.int_repr(), Y)
    assert integers.dtype == torch.quint8 and plain.dtype == torch.uint8
    assert rest.dtype == same_rest.dtype == torch.float32
    (parameters,) = known.outputs[0]
    assert integers.q_scale() == pytest.approx(parameters.scale) and integers.q_zero_point() == parameters.zero_point
    assert not check_agreement(reference, quantized, x, Y).violations
    for model in (reference, quantized):
        assert not _quantizes(model, "x") and not any(node.name == "x_dequantize_1" for node in model.graph.nodes)


def test_the_result_is_that_of_the_float_border() -> None:
    plain = _observed([], [])
    borders = copy.deepcopy(plain).state_dict()
    observed = _observed([0], [0])
    observed.load_state_dict(borders)  # the same weights and ranges
    quantized = fxquant.convert_fx(observed)
    known = quantized_borders(quantized).inputs["x"]
    expected, _ = fxquant.convert_fx(plain)(X, Y)
    actual, _ = quantized(_quint8(X, known.scale, known.zero_point), Y)
    assert torch.equal(actual.dequantize(), expected)


def test_an_operator_that_shares_its_range_stays_integer_between_borders() -> None:
    class Pool(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return F.max_pool2d(x, 2)

    observed = _observed([0], [0], Pool())
    quantized = fxquant.convert_fx(observed)
    assert quantized.plan.unit_of("max_pool2d").outcome == "int8"
    known = quantized_borders(quantized).inputs["x"]
    x = _quint8(X, known.scale, known.zero_point)
    assert torch.equal(quantized(x, Y).int_repr(), F.max_pool2d(x, 2).int_repr())


def test_float_operators_at_both_borders() -> None:
    class Unknown(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> list[Tensor]:
            return [torch.fft.fft(x).real, x]

    observed = _observed([0], [0, 1], Unknown())
    reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
    known = quantized_borders(reference)
    x = _quint8(X, known.inputs["x"].scale, known.inputs["x"].zero_point)
    results, plain = quantized(x, Y), reference(x.int_repr(), Y)
    assert isinstance(results, list) and torch.equal(results[1].int_repr(), x.int_repr())
    assert all(torch.equal(one.int_repr(), other) for one, other in zip(results, plain, strict=True))


def test_a_dictionary_is_one_output() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return {"a": x.relu(), "b": y * 2}

    reference = fxquant.convert_to_reference_fx(_observed([], [0], Named()))
    result = reference(X, Y)
    assert result["a"].dtype == result["b"].dtype == torch.uint8
    assert len(quantized_borders(reference).outputs[0]) == 2


def test_other_parameters_are_requantized_with_a_warning() -> None:
    quantized = fxquant.convert_fx(_observed([0], []))
    known = quantized_borders(quantized).inputs["x"]
    right = quantized(_quint8(X, known.scale, known.zero_point), Y)[0]
    finer = _quint8(X, known.scale / 4, known.zero_point)  # clips
    with pytest.warns(UserWarning, match="calibrated with"):
        close = quantized(_quint8(X, known.scale * 1.0001, known.zero_point), Y)[0]
    assert torch.allclose(close, right, atol=float(right.abs().max()) * 0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        quantized(finer, Y)


def test_other_dtypes_are_refused_with_the_parameters() -> None:
    observed = _observed([0], [])
    with pytest.raises(FxquantError, match=r"'x' is to be a quint8 tensor(.|\n)*quantize_per_tensor"):
        fxquant.convert_fx(observed)(X, Y)
    with pytest.raises(FxquantError, match=r"'x' is to be torch.uint8(.|\n)*scale"):
        fxquant.convert_to_reference_fx(observed)(X, Y)


@pytest.mark.parametrize("stage", ["reference", "quantized"])
def test_files_and_copies(stage: str) -> None:
    observed = _observed([0], [0])
    make = fxquant.convert_fx if stage == "quantized" else fxquant.convert_to_reference_fx
    model = make(observed)
    known = quantized_borders(model).inputs["x"]
    x = _quint8(X, known.scale, known.zero_point)
    given = x if stage == "quantized" else x.int_repr()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    expected = model(given, Y)
    for twin in (copy.deepcopy(model), torch.load(buffer, weights_only=False), make(copy.deepcopy(observed))):
        assert quantized_borders(twin) == quantized_borders(model)
        assert all(_same(one, other) for one, other in zip(twin(given, Y), expected, strict=True))


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.dequantize(), other.dequantize()) if one.is_quantized else torch.equal(one, other)


def test_explain_and_graph_diff() -> None:
    net = Net()
    observed = _observed([0], [0], net)
    quantized = fxquant.convert_fx(observed)
    notes = fxquant.explain(quantized).notes
    assert any(note.startswith("input x is uint8 in converted models: scale") for note in notes)
    assert "output 0 is uint8 in converted models" in notes
    assert "x_taken" in str(fxquant.graph_diff(net, quantized))
    assert fxquant.graph_diff(fxquant.convert_to_reference_fx(observed), quantized).counts


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([2], [], "names index 2, and the model has 2 inputs"),
        ([-1], [], "names index -1"),
        ([], [2], "names index 2, and the model has 2 outputs"),
        (["x"], [], "names index 'x'"),
    ],
)
def test_indexes_that_mean_nothing(inputs: Any, outputs: Any, message: str) -> None:
    with pytest.raises(FxquantError, match=message):
        _observed(inputs, outputs)


def test_values_that_are_no_float_tensors() -> None:
    class Sized(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, int]:
            return x.relu(), x.shape[0]

    with pytest.raises(FxquantError, match="output 1 is to be quantized and holds no floating-point tensor"):
        _observed([], [1], Sized())
    config = PrepareCustomConfig().set_input_quantized_indexes([0])
    with pytest.raises(FxquantError, match="no single floating-point tensor"):
        fxquant.prepare_fx(nn.Embedding(4, 3).eval(), get_default_qconfig_mapping(), (torch.tensor([1, 2]),), config)


def test_half_models_have_no_quantized_borders() -> None:
    config = PrepareCustomConfig().set_input_quantized_indexes([0])
    with pytest.raises(FxquantError, match=r"float32 models(.|\n)*model.float\(\)"):
        fxquant.prepare_fx(nn.Conv2d(3, 4, 3).eval().half(), get_default_qconfig_mapping(), (X.half(),), config)


def test_a_border_without_any_qconfig_is_refused() -> None:
    config = PrepareCustomConfig().set_input_quantized_indexes([0])
    with pytest.raises(FxquantError, match="measures no range"):
        fxquant.prepare_fx(Net().eval(), fxquant.QConfigMapping(), (X, Y), config)


def test_a_result_without_a_qconfig_takes_the_global_one() -> None:
    config = PrepareCustomConfig().set_output_quantized_indexes([0])
    mapping = get_default_qconfig_mapping().set_module_name("second", None)
    observed = fxquant.prepare_fx(Net().eval(), mapping, (X, Y), config)
    observed(X, Y)
    result, _ = fxquant.convert_fx(observed)(X, Y)
    assert result.dtype == torch.quint8 and observed.plan.unit_of("second").outcome == "float"


def test_excluding_the_reader_at_convert_keeps_the_border() -> None:
    observed = _observed([0], [0])
    mapping = get_default_qconfig_mapping().set_global(None)
    quantized = fxquant.convert_fx(observed, qconfig_mapping=mapping)
    known = quantized_borders(quantized).inputs["x"]
    result, _ = quantized(_quint8(X, known.scale, known.zero_point), Y)
    assert result.dtype == torch.quint8
    assert quantized.plan.unit_of("first").outcome == "float"


def test_verified_conversion() -> None:
    quantized = fxquant.convert_fx(_observed([0], [0]), verify=True)
    assert any(note.startswith("verified on the example inputs") for note in quantized.plan.notes)
