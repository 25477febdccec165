"""Fused attention as matrix products: same results, ordinary operators, and int8 where it is configured."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import pipeline
from fxquant.ir.stages import ObservedModel
from fxquant.numerics.sqnr import sqnr_db
from fxquant.passes.decompose_operators import decompose_operators

MAPPING = fxquant.get_default_qconfig_mapping


class Fused(nn.Module):
    """F.scaled_dot_product_attention on projected inputs."""

    def __init__(self, key_heads: int = 4, **flags: Any) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(16, 16), nn.Linear(16, 8 * key_heads), nn.Linear(16, 16)
        self.key_heads, self.flags = key_heads, flags

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 4, 4).transpose(1, 2)
        k, v = self.kv(x).view(b, n, 2, self.key_heads, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **self.flags)
        return self.out(y.transpose(1, 2).reshape(b, n, 16))  # type: ignore[no-any-return]


class ByHand(nn.Module):
    """Attention as libraries write it out; ``style`` says how masked scores are hidden."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.qkv, self.out, self.style = nn.Linear(16, 48), nn.Linear(16, 16), style
        self.bias = nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(4)
        if self.style == "lowest":
            hidden = (1.0 - mask[:, None, None, :].to(scores.dtype)) * torch.finfo(scores.dtype).min
            scores = scores + hidden
        elif self.style == "masked_fill":
            scores = scores.masked_fill(mask[:, None, None, :] == 0, -torch.inf)
        elif self.style == "windows":
            scores = (scores + self.bias).view(b, 1, 4, n, n) + mask.log()[:, None, None, None, :]
            scores = scores.view(-1, 4, n, n)
        weights = scores.softmax(dim=-1) if self.style != "baddbmm" else self._baddbmm(q, k, mask)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, 16))  # type: ignore[no-any-return]

    def _baddbmm(self, q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
        b, h, n, d = q.shape
        hidden = torch.log(mask).repeat_interleave(h, 0)[:, None, :].expand(-1, n, -1)
        keys = k.reshape(b * h, n, d).transpose(1, 2)
        return torch.baddbmm(hidden, q.reshape(b * h, n, d), keys, alpha=0.5).softmax(-1).view(b, h, n, n)


def _prepared(model: nn.Module, *inputs: Tensor, mapping: Any = None) -> ObservedModel:
    return fxquant.prepare_fx(model.eval(), mapping or MAPPING(), inputs)


def _ops(model: Any) -> list[str]:
    return [row.op for row in fxquant.explain(model).rows]


def _mask(kind: str, batch: int, length: int) -> Tensor | None:
    allowed = torch.rand(batch, 1, length, length) > 0.4
    allowed[:, :, 1:2] = False  # nothing is allowed: torch gives zeros for such rows
    return {"bool": allowed, "float": torch.randn(length, length), "": None}[kind]


FLAGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "negative scale": {"scale": -1.0},
    "bool": {},
    "float": {},
    "groups": {"key_heads": 2, "enable_gqa": True},
    "one group": {"key_heads": 1, "enable_gqa": True, "is_causal": True},
}


@pytest.mark.parametrize("title", FLAGS)
def test_decomposed_computes_the_same(title: str) -> None:
    model, kind = Fused(**FLAGS[title]).eval(), title if title in ("bool", "float") else ""
    example = _mask(kind, 2, 5)
    example = torch.ones_like(example) if kind == "bool" else example
    inputs = (torch.randn(2, 5, 16), *(() if example is None else (example,)))
    observed = _prepared(model, *inputs)
    assert _ops(observed).count("matmul") == 2 and "scaled_dot_product_attention" not in _ops(observed)
    for batch, length in ((2, 5), (3, 5), (1, 9), (4, 1)):
        mask = _mask(kind, batch, length)
        given = (torch.randn(batch, length, 16), *(() if mask is None else (mask,)))
        with torch.no_grad():
            expected, actual = model(*given), observed(*given)
        assert (actual - expected).norm() <= 1e-6 * expected.norm(), (batch, length)


def test_what_stays_whole() -> None:
    x = torch.randn(2, 5, 16)
    for mapping in (
        MAPPING().set_object_type(F.scaled_dot_product_attention, None),
        fxquant.QConfigMapping().set_global(None).set_object_type(nn.Linear, fxquant.get_default_qconfig()),
    ):
        row = next(row for row in fxquant.explain(_prepared(Fused(), x, mapping=mapping)).rows if "scaled" in row.op)
        assert row.outcome in ("float", "step") and row.reason.startswith("excluded by qconfig")
        assert row.macs == 2 * 4 * 5 * 5 * (4 + 4)
    assert "matmul" not in _ops(_prepared(Fused(dropout_p=0.1), x))


def test_parts_have_the_configuration_and_the_source_of_the_whole() -> None:
    x = torch.randn(2, 5, 16)
    mapping = fxquant.QConfigMapping().set_global(None)
    mapping.set_object_type(F.scaled_dot_product_attention, fxquant.get_default_qconfig())
    observed = _prepared(Fused(), x, mapping=mapping)
    rows = [row for row in fxquant.explain(observed).rows if row.op in ("matmul", "attention_softmax")]
    assert [row.node for row in rows] == ["matmul", "attention_softmax", "scaled_dot_product_attention"]
    assert {row.source for row in rows} == {f"{__file__}:{_line_of('y = F.scaled_dot_product_attention')}"}
    configs = {observed.plan.unit_of(row.node).config for row in rows}
    assert configs == {"set_object_type(scaled_dot_product_attention)"}
    ordered = MAPPING().set_module_name_object_type_order("", F.scaled_dot_product_attention, 0, None)
    assert "scaled_dot_product_attention" in _ops(_prepared(Fused(), x, mapping=ordered))


def _line_of(text: str) -> int:
    with open(__file__) as file:
        return next(number for number, line in enumerate(file, 1) if text in line)


@pytest.mark.parametrize("style", ["lowest", "masked_fill", "windows", "baddbmm"])
def test_masks_written_out_stay_float(style: str) -> None:
    model, x = ByHand(style).eval(), torch.randn(4, 6, 16)
    observed = _prepared(model, x, torch.ones(4, 6))
    hiding = torch.ones(4, 6)
    hiding[1, 4:] = hiding[2, :3] = 0
    with torch.no_grad():
        for _ in range(4):
            observed(torch.randn(4, 6, 16), hiding)
        assert (observed(x, hiding) - model(x, hiding)).norm() <= 1e-6 * model(x, hiding).norm()
        quantized = fxquant.convert_fx(observed)
        assert sqnr_db(model(x, hiding), quantized(x, hiding)) > 34
    between = [row for row in fxquant.explain(quantized).rows if row.op in ("div", "add", "masked_fill", "softmax")]
    assert between and all(row.outcome in ("step", "float") for row in between)


class Classifier(nn.Module):
    """torchvision's ViT in small: patches, a class token, positions, an encoder, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 8, stride=8)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 64)), nn.Parameter(torch.randn(1, 17, 64) * 0.5)
        layer = nn.TransformerEncoderLayer(64, 4, 128, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(64), enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        return self.head(self.encoder(x)[:, 0])  # type: ignore[no-any-return]


def test_classifier_is_accurate() -> None:
    model = Classifier().eval()
    quantized = fxquant.quantize(model, [torch.randn(8, 3, 32, 32) for _ in range(4)], progress=False)
    x = torch.randn(16, 3, 32, 32)
    with torch.no_grad():
        assert sqnr_db(model(x), quantized(x)) > 32
    _check_int8(quantized, "encoder.layers.0.self_attn")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_encoder_is_accurate_with_other_masks_than_it_was_prepared_with() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 2).eval()
    nothing, hidden = torch.zeros(8, 12, dtype=torch.bool), torch.arange(12) > torch.arange(4, 12)[:, None]
    example = {"src": torch.randn(8, 12, 64), "src_key_padding_mask": nothing}
    observed = fxquant.prepare_fx(model, MAPPING(), example)
    for mask in (nothing, hidden):
        observed(src=torch.randn(8, 12, 64), src_key_padding_mask=mask)
    quantized = fxquant.convert_fx(observed)
    for batch, length in ((8, 12), (5, 9)):
        x, mask = torch.randn(batch, length, 64), hidden[:batch, :length]
        with torch.no_grad():
            expected, actual = (side(x, src_key_padding_mask=mask) for side in (model, quantized))
        assert sqnr_db(expected[~mask], actual[~mask]) > 28
    _check_int8(quantized, "layers.0.self_attn")


def _check_int8(quantized: Any, path: str) -> None:
    """All projections run int8, products are at least stored int8, from the attention at ``path``."""
    rows = [row for row in fxquant.explain(quantized).rows if row.module_path.startswith(path)]
    assert [row.outcome for row in rows if row.op == "linear"] == ["int8", "int8"]
    assert [row.module_path for row in rows if row.op == "linear"] == [path, f"{path}.out_proj"]
    products = [row for row in rows if row.op in ("matmul", "attention_softmax")]
    assert len(products) == 3 and all(row.outcome in ("int8", "step") for row in products)


def test_out_projection_can_be_excluded_by_name() -> None:
    x = torch.randn(2, 5, 8)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
    observed = _prepared(model, x, mapping=MAPPING().set_module_name("layers.0.self_attn.out_proj", None))
    rows = {row.module_path: row for row in fxquant.explain(observed).rows if row.op == "linear"}
    assert rows["layers.0.self_attn.out_proj"].reason.startswith("excluded by qconfig")
    assert rows["layers.0.self_attn"].outcome == "int8"


class Packed(nn.Module):
    """Projections with slices, chunks and splits of one parameter, and cross-attention that splits it too."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(24, 8) * 0.3), nn.Parameter(torch.randn(24))
        self.cross = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q = F.linear(x, self.weight[:8], self.bias[:8])
        k = F.linear(x, self.weight.chunk(3)[1], self.bias.chunk(3)[1])
        v = F.linear(x, self.weight.split([16, 8])[1], self.bias.split([16, 8])[1])
        y = F.scaled_dot_product_attention(q, k, v)
        return self.cross(y, memory, memory)[0]  # type: ignore[no-any-return]


def test_parts_of_packed_weights_are_int8_weights() -> None:
    model, inputs = Packed().eval(), (torch.randn(4, 5, 8), torch.randn(4, 7, 8))
    observed = _prepared(model, *inputs)
    observed(*inputs)
    quantized = fxquant.convert_fx(observed)
    rows = [row for row in fxquant.explain(quantized).rows if row.op == "linear"]
    assert [row.outcome for row in rows] == ["int8"] * 6
    origins = {key: names for key, names in quantized.state.key_origins.items() if key.endswith(".weight")}
    assert set(origins.values()) == {
        ("weight", "bias"),
        ("cross.in_proj_weight", "cross.in_proj_bias"),
        ("cross.out_proj.weight", "cross.out_proj.bias"),
    }
    with torch.no_grad():
        assert sqnr_db(model(*inputs), quantized(*inputs)) > 37
        again = pickle.loads(pickle.dumps(quantized))
        assert torch.equal(again(*inputs), quantized(*inputs))


def test_stages_with_and_without_decomposition_can_be_compared() -> None:
    x = torch.randn(2, 5, 8)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1).eval()
    fused, quantized = fxquant.fuse_fx(model, example_inputs=(x,)), fxquant.quantize(model, [x], progress=False)
    assert "attention_softmax" in str(fxquant.graph_diff(fused, quantized))
    assert "attention_softmax" in str(fxquant.graph_diff(model, quantized))


def test_capture_keeps_the_fused_operator() -> None:
    captured = pipeline.capture(Fused().eval(), (torch.randn(2, 5, 16),))
    before = str(captured.graph)
    assert "matmul" in str(decompose_operators(captured, MAPPING()).graph)
    assert str(captured.graph) == before
