"""What was trained is what runs: evaluation, reference and int8 model, unit by unit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from trained_networks import CASES, train

import fxquant
from fxquant.inspect.agreement import check_agreement


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


@pytest.mark.parametrize("qconfig", list(QCONFIGS))
@pytest.mark.parametrize("name", list(CASES))
def test_evaluation_is_the_reference_and_int8_follows(name: str, qconfig: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]
    inputs = case.inputs()
    prepared = fxquant.prepare_qat_fx(case.build().train(), _mapping(QCONFIGS[qconfig]), inputs)
    losses = train(prepared, inputs)
    assert all(loss == loss for loss in losses)
    prepared.eval()
    reference, quantized = fxquant.convert_to_reference_fx(prepared), fxquant.convert_fx(prepared)
    with torch.no_grad():
        expected = prepared(*inputs)
        assert torch.equal(reference(*inputs), expected)
        assert torch.equal(prepared(*inputs), expected)
    assert not check_agreement(reference, quantized, *inputs).violations
    integers = [unit for unit in quantized.plan.units if unit.outcome == "int8"]
    assert len(integers) >= 2
