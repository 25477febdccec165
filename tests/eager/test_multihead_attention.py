"""nn.MultiheadAttention between stubs: its projections are int8."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import eager
from fxquant.eager.attention import Attention
from fxquant.numerics.sqnr import sqnr_db


class _Attends(nn.Module):
    """Attention of a value with itself between linears."""

    def __init__(self, style: Any, **arguments: Any) -> None:
        super().__init__()
        self.quant, self.dequant = style.QuantStub(), style.DeQuantStub()
        self.attention, self.last = nn.MultiheadAttention(16, 4, **arguments), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(x)
        result: Tensor = self.dequant(self.last(self.attention(x, x, x, need_weights=False)[0]))
        return result


PADDED = torch.tensor([[False, False, False, True], [False] * 4, [False, True, True, True]])
CAUSAL = torch.full((5, 4), -torch.inf).triu(1)
CALLS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"batch_first": True}, {}),
    ({"batch_first": True, "bias": False}, {"need_weights": False, "key_padding_mask": PADDED}),
    ({"batch_first": True, "kdim": 12, "vdim": 10}, {"attn_mask": CAUSAL}),
    ({"add_bias_kv": True, "add_zero_attn": True}, {"average_attn_weights": False}),
    ({"add_bias_kv": True}, {"attn_mask": CAUSAL < 0}),
    ({}, {"attn_mask": (CAUSAL < 0).expand(12, 5, 4), "key_padding_mask": PADDED}),
]


@pytest.mark.parametrize(("arguments", "call"), CALLS)
@torch.no_grad()
def test_it_computes_what_the_module_computes(arguments: dict[str, Any], call: dict[str, Any]) -> None:
    module = nn.MultiheadAttention(16, 4, **arguments).eval()
    sizes = (16, arguments.get("kdim", 16), arguments.get("vdim", 16))
    inputs = [torch.randn(3, 5 if index == 0 else 4, size) for index, size in enumerate(sizes)]
    inputs = inputs if arguments.get("batch_first") else [item.transpose(0, 1) for item in inputs]
    expected, weights = module(*inputs, **call)
    result, found = Attention(module)(*inputs, **call)
    torch.testing.assert_close(result, expected)
    assert (found is None) == (weights is None)
    if weights is not None:
        torch.testing.assert_close(found, weights)
    if "key_padding_mask" not in call and call.get("attn_mask", CAUSAL).dim() == 2:
        batch = 0 if arguments.get("batch_first") else 1
        single = [item.select(batch, 0) for item in inputs]
        torch.testing.assert_close(Attention(module)(*single, **call), module(*single, **call))


def _by_hand(style: Any, qconfig: Any, model: nn.Module, x: Tensor) -> nn.Module:
    model.qconfig = qconfig
    prepared = style.prepare(model)
    prepared(x)
    return style.convert(prepared)


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_between_stubs_it_is_not_less_exact_than_torch_ao() -> None:
    theirs = pytest.importorskip("torch.ao.quantization")
    torch.manual_seed(0)
    model, x = _Attends(eager).eval(), torch.randn(9, 4, 16)
    other = _Attends(theirs).eval()
    other.load_state_dict(model.state_dict())
    quantized = _by_hand(eager, fxquant.get_default_qconfig("x86"), model, x)
    assert type(model.attention) is nn.MultiheadAttention
    assert not [module for module in quantized.modules() if isinstance(module, nn.Linear)]
    level = sqnr_db(model(x), quantized(x))
    assert level > max(28, sqnr_db(model(x), _by_hand(theirs, theirs.get_default_qconfig("x86"), other, x)(x)))


@torch.no_grad()
def test_transformer_layers_can_be_prepared() -> None:
    model, x = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval(), torch.randn(2, 5, 16)
    model.qconfig = fxquant.get_default_qconfig("x86")
    torch.testing.assert_close(eager.prepare(model)(x), model(x))


def test_it_stays_whole_where_it_stays_float() -> None:
    model = _Attends(eager).eval()
    model.qconfig, model.attention.qconfig = fxquant.get_default_qconfig("x86"), None
    assert type(eager.prepare(model).attention) is nn.MultiheadAttention
