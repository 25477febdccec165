"""What was trained is what runs: evaluation, reference and int8 model, unit by unit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from trained_networks import CASES, train

import fxquant
from fxquant.inspect.agreement import check_agreement
from fxquant.ir.stages import FakeQuantizedModel, QuantizedModel
from fxquant.numerics.affine import dequantize
from fxquant.numerics.sqnr import sqnr_db


def _mapping(qconfig: Any, backend: str = "x86") -> fxquant.QConfigMapping:
    mapping = fxquant.get_default_qat_qconfig_mapping(backend).set_global(qconfig)
    mapping.set_object_type(nn.Embedding, fxquant.default_embedding_qat_qconfig)
    mapping.optional_types = frozenset((nn.Embedding,))
    return mapping


QCONFIGS = {
    "default": fxquant.get_default_qat_qconfig(),
    "learned, 4 bits": fxquant.get_learnable_qat_qconfig(4),
    "7 bits, one scale": fxquant.default_qat_qconfig,
    "observers alone": fxquant.get_default_qconfig(),
}


def convert_as_trained(prepared: FakeQuantizedModel, inputs: Any) -> QuantizedModel:
    """Convert; evaluation is the reference's exactly, every time, and every int8 unit agrees with it."""
    prepared.eval()
    reference, quantized = fxquant.convert_to_reference_fx(prepared), fxquant.convert_fx(prepared)
    with torch.no_grad():
        expected = prepared(*inputs)
        assert torch.equal(reference(*inputs), expected)
        assert torch.equal(prepared(*inputs), expected)
    assert not check_agreement(reference, quantized, *inputs).violations
    return quantized


@pytest.mark.parametrize("qconfig", list(QCONFIGS))
@pytest.mark.parametrize("name", list(CASES))
def test_evaluation_is_the_reference_and_int8_follows(name: str, qconfig: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]
    inputs = case.inputs()
    prepared = fxquant.prepare_qat_fx(case.build().train(), _mapping(QCONFIGS[qconfig]), inputs)
    losses = train(prepared, inputs)
    assert all(loss == loss for loss in losses)
    quantized = convert_as_trained(prepared, inputs)
    integers = [unit for unit in quantized.plan.units if unit.outcome == "int8"]
    assert len(integers) >= 2


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "onednn", "qnnpack"])
def test_limits_of_every_engine_are_trained(backend: str) -> None:
    torch.manual_seed(0)
    for name in ("residual", "image"):
        inputs = CASES[name].inputs()
        mapping = fxquant.get_default_qat_qconfig_mapping(backend)
        prepared = fxquant.prepare_qat_fx(CASES[name].build().train(), mapping, inputs, backend_config=backend)
        with torch.no_grad():  # weights that limits of pairs bind
            for parameter in prepared.parameters():
                parameter.copy_(parameter.sign() * (0.1 + 0.02 * torch.rand_like(parameter)))
        train(prepared, inputs, 2)
        convert_as_trained(prepared, inputs)


@pytest.mark.parametrize("qconfig", [fxquant.default_dynamic_qat_qconfig, fxquant.float16_dynamic_qconfig])
def test_dynamic(qconfig: Any) -> None:
    torch.manual_seed(0)
    for name in ("words", "encoder"):
        inputs = CASES[name].inputs()
        prepared = fxquant.prepare_qat_fx(CASES[name].build().train(), qconfig, inputs)
        train(prepared, inputs)
        prepared.eval()
        with torch.no_grad():
            expected = prepared(*inputs)
            assert torch.equal(fxquant.convert_to_reference_fx(prepared)(*inputs), expected)
            assert sqnr_db(expected, fxquant.convert_fx(prepared)(*inputs)) > 40


def test_tables_of_four_bits() -> None:
    torch.manual_seed(0)
    inputs = CASES["words"].inputs()
    mapping = _mapping(fxquant.get_default_qat_qconfig())
    mapping.set_object_type(nn.Embedding, fxquant.default_embedding_qat_qconfig_4bit)
    prepared = fxquant.prepare_qat_fx(CASES["words"].build().train(), mapping, inputs)
    train(prepared, inputs)
    quantized = convert_as_trained(prepared, inputs)
    assert any(unit.mode == "weights4" for unit in quantized.plan.units)


@pytest.mark.filterwarnings("ignore")
def test_qconfigs_of_torch_ao_are_taken() -> None:
    theirs = pytest.importorskip("torch.ao.quantization")
    torch.manual_seed(0)
    inputs = CASES["functionals"].inputs()
    mapping = theirs.get_default_qat_qconfig_mapping("x86")
    prepared = fxquant.prepare_qat_fx(CASES["functionals"].build().train(), mapping, inputs)
    train(prepared, inputs)
    convert_as_trained(prepared, inputs)


def test_standalone_modules_and_quantized_borders() -> None:
    torch.manual_seed(0)
    inputs = CASES["residual"].inputs()
    inner = fxquant.PrepareCustomConfig().set_input_quantized_indexes([0]).set_output_quantized_indexes([0])
    custom = fxquant.PrepareCustomConfig().set_output_quantized_indexes([0])
    custom.set_standalone_module_name("body", None, (torch.randn(1, 6, 8, 8),), inner, None)
    prepared = fxquant.prepare_qat_fx(CASES["residual"].build().train(), QCONFIGS["default"], inputs, custom)
    train(prepared, inputs)
    prepared.eval()
    reference, quantized = fxquant.convert_to_reference_fx(prepared), fxquant.convert_fx(prepared)
    with torch.no_grad():
        scale, zero_point = (reference.state_dict()[f"int8_ranges.head.{key}"] for key in ("scale", "zero_point"))
        returned = dequantize(reference(*inputs), scale, zero_point)
        assert torch.equal(returned, prepared(*inputs))
    assert not check_agreement(reference, quantized, *inputs).violations


def test_a_layer_whose_gamma_is_zero_learns() -> None:
    torch.manual_seed(0)
    model, inputs = CASES["residual"].build().train(), CASES["residual"].inputs()
    nn.init.zeros_(model.body[1].weight)
    prepared = fxquant.prepare_qat_fx(model, QCONFIGS["default"], inputs)
    assert all(loss == loss for loss in train(prepared, inputs))
    assert prepared.state_dict()["body.1.weight"].abs().max() > 0


def test_convert_excludes_and_verifies() -> None:
    torch.manual_seed(0)
    inputs = CASES["residual"].inputs()
    prepared = fxquant.prepare_qat_fx(CASES["residual"].build().train(), QCONFIGS["default"], inputs)
    train(prepared, inputs)
    prepared.eval()
    verified = fxquant.convert_fx(prepared, verify=True, keep_original_weights=True)
    assert any("verified on the example inputs" in note for note in verified.plan.notes)
    assert len(verified.original_weights_lookup) == 3
    partly = fxquant.convert_fx(prepared, qconfig_mapping=fxquant.QConfigMapping().set_module_name("head", None))
    with torch.no_grad():
        assert (partly(*inputs) - prepared(*inputs)).abs().max() < 0.1
    assert "float" in {unit.outcome for unit in partly.plan.units if unit.op == "linear"}
    assert str(fxquant.explain(prepared)) and str(fxquant.graph_diff(prepared, verified))
