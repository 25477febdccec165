"""Attention and transformer layers: their linears; and conversions that check themselves."""

from __future__ import annotations

import pytest
import torch
from linears import Attention, assert_same, converted, modes, through_file
from torch import Tensor, nn

import fxquant
from fxquant.backends.native.kernels.dynamic import LinearDynamic
from fxquant.inspect.agreement import check_agreement
from fxquant.numerics.sqnr import sqnr_db


class _SelfAttention(nn.Module):
    """nn.MultiheadAttention of a value with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return result


class _Decoder(nn.Module):
    """A decoder layer that attends to what it decodes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(16, 4, 32, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x, x.flip(1))
        return result


MODELS = {
    "attention": (_SelfAttention, {"attention"}),
    "encoder": (lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), {"linear1", "linear2", "self_attn"}),
    "encoder of two": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2, enable_nested_tensor=False
        ),
        {"layers.0.self_attn", "layers.1.linear2"},
    ),
    "decoder": (_Decoder, {"layer.multihead_attn", "layer.linear1"}),
}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_their_linears_are_dynamic(name: str) -> None:
    build, expected = MODELS[name]
    model, x = build().eval(), torch.randn(2, 6, 16)
    quantized = fxquant.quantize(model, example_inputs=(x,), dynamic=True)
    rows = [row for row in fxquant.explain(quantized).rows if row.op == "linear"]
    assert {row.outcome for row in rows} == {"int8"}
    paths = {row.module_path for row in rows}
    assert all(any(path.startswith(wanted) for path in paths) for wanted in expected)
    assert sqnr_db(model(x), quantized(x)) > 28
    assert torch.equal(quantized(x), through_file(quantized)(x))


@torch.no_grad()
def test_units_are_judged_on_the_same_floats() -> None:
    model, x = Attention().eval(), torch.randn(2, 5, 8)
    reference, quantized = converted(model, fxquant.per_channel_dynamic_qconfig, (x,))
    assert_same(reference(x), quantized(x))
    agreement = check_agreement(reference, quantized, x)
    assert len(agreement.rows) == len(modes(quantized)) == 4 and not agreement.violations


@torch.no_grad()
@pytest.mark.skipif("onednn" not in torch.backends.quantized.supported_engines, reason="needs onednn")
def test_wrong_kernels_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    right = LinearDynamic.forward

    def wrong(kernel: LinearDynamic, x: Tensor) -> Tensor:
        return right(kernel, x) * (1.1 if kernel.engine == "onednn" else 1.0)

    monkeypatch.setattr(LinearDynamic, "forward", wrong)
    model, x = Attention().eval(), torch.randn(2, 5, 8)
    quantized = fxquant.quantize(model, example_inputs=(x,), dynamic=True, backend="onednn")
    units = [unit for unit in quantized.plan.units if unit.op == "linear"]
    assert all("left the reference by" in unit.reason for unit in units)
    assert all(unit.kernel is not None and unit.kernel.engine != "onednn" for unit in units)
    assert sqnr_db(model(x), quantized(x)) > 30
