"""Dynamic quantization by hand: ``quantize_dynamic``."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from hand_written import BertLayer, WordModel
from torch import Tensor, nn

import fxquant
from fxquant import eager
from fxquant.errors import ConfigError, ConvertError
from fxquant.numerics.sqnr import sqnr_db


def bert() -> nn.Module:
    return nn.Sequential(BertLayer(), BertLayer()).eval()


def theirs(model: nn.Module, spec: Any, dtype: torch.dtype) -> nn.Module:
    return pytest.importorskip("torch.ao.quantization").quantize_dynamic(model, spec, dtype=dtype)


@pytest.mark.filterwarnings("ignore")
def test_the_bert_tutorial_ports_by_its_imports() -> None:
    model, x = bert(), torch.randn(2, 7, 32)
    quantized = eager.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    assert not [module for module in quantized.modules() if isinstance(module, nn.Linear)]
    expected, other = model(x), theirs(model, {torch.nn.Linear}, torch.qint8)(x)
    assert sqnr_db(expected, quantized(x)) > sqnr_db(expected, other) - 1


@pytest.mark.filterwarnings("ignore")
def test_the_lstm_tutorial_ports_by_its_imports() -> None:
    model, words = WordModel().eval(), torch.randint(0, 50, (9, 3))
    quantized = eager.quantize_dynamic(model, {nn.LSTM, nn.Linear}, dtype=torch.qint8)
    expected, _ = model(words, model.init_hidden(3))
    result, state = quantized(words, model.init_hidden(3))
    other, _ = theirs(model, {nn.LSTM, nn.Linear}, torch.qint8)(words, model.init_hidden(3))
    assert [part.shape for part in state] == [(2, 3, 32), (2, 3, 32)]
    assert sqnr_db(expected, result) > sqnr_db(expected, other) - 1


def test_both_styles_give_the_same_numbers() -> None:
    model, x = bert(), torch.randn(2, 7, 32)
    qconfig = fxquant.default_dynamic_qconfig
    quantized = eager.quantize_dynamic(model, {nn.Linear: qconfig})
    mapping = fxquant.QConfigMapping().set_global(None).set_object_type(nn.Linear, qconfig)
    graph = fxquant.convert_fx(fxquant.prepare_fx(model, mapping, (x,)))
    assert torch.equal(quantized(x), graph(x))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("module", "shape"),
    [(nn.Linear(8, 6), (3, 8)), (nn.LSTM(8, 6), (5, 3, 8)), (nn.GRU(8, 6, 2), (5, 3, 8)), (nn.LSTMCell(8, 6), (3, 8)),
     (nn.GRUCell(8, 6), (3, 8)), (nn.RNNCell(8, 6), (3, 8)),
     (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8))],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_every_layer(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    def first(result: Any) -> Tensor:
        return result if isinstance(result, Tensor) else first(result[0])

    module, x = module.eval(), torch.randn(shape)
    with torch.no_grad():
        quantized = eager.quantize_dynamic(module, dtype=dtype)
        assert sqnr_db(first(module(x)), first(quantized(x))) > (60 if dtype == torch.float16 else 30)
        assert torch.equal(first(copy.deepcopy(quantized)(x)), first(quantized(x)))
        file = io.BytesIO()
        torch.save(quantized, file)
        file.seek(0)
        assert torch.equal(first(torch.load(file, weights_only=False)(x)), first(quantized(x)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.int8, torch.float16], ids=str)
@torch.no_grad()
def test_models_of_the_tutorials_can_be_traced_by_jit(dtype: torch.dtype) -> None:
    model = WordModel().eval()
    quantized, state = eager.quantize_dynamic(model, {nn.LSTM, nn.Linear}, dtype=dtype), model.init_hidden(3)
    traced = torch.jit.trace(quantized, (torch.randint(0, 50, (9, 3)), state), check_trace=False)
    words = torch.randint(0, 50, (12, 3))
    assert torch.equal(traced(words, state)[0], quantized(words, state)[0])
    layers, x = eager.quantize_dynamic(bert(), {nn.Linear}, dtype=dtype), torch.randn(3, 9, 32)
    assert torch.equal(torch.jit.trace(layers, (torch.randn(2, 7, 32),), check_trace=False)(x), layers(x))


@pytest.mark.parametrize(("dtype", "db"), [(torch.quint8, 40), (torch.quint4x2, 18)], ids=str)
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_embeddings(kind: Any, dtype: torch.dtype, db: float) -> None:
    table, rows = kind(12, 16), torch.randint(0, 12, (3, 4))
    assert sqnr_db(table(rows), eager.quantize_dynamic(table, {kind}, dtype=dtype)(rows)) > db


def test_specs_by_path_and_by_qconfig() -> None:
    model = bert()
    quantized = eager.quantize_dynamic(
        model, {"0.query": fxquant.per_channel_dynamic_qconfig, "1": fxquant.float16_dynamic_qconfig}
    )
    assert quantized[0].query.weight_scale.shape == (32,)
    assert type(quantized[0].key) is nn.Linear
    assert quantized[1].key.weight.dtype == torch.float16
    assert type(model[0].query) is nn.Linear
    assert eager.quantize_dynamic(model, {"0.query"}, inplace=True) is model
    assert type(model[0].query) is not nn.Linear


def test_state_dicts_hold_plain_tensors_that_load() -> None:
    x, first, second = torch.randn(2, 7, 32), *(eager.quantize_dynamic(bert()) for _ in range(2))
    assert {value.dtype for value in first.state_dict().values()} == {torch.int8, torch.int64, torch.float32}
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(x), first(x))


def test_convolutions_are_those_of_a_graph() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1)).eval(), torch.randn(2, 3, 9, 9)
    quantized = eager.quantize_dynamic(model, {nn.Conv2d: fxquant.per_channel_dynamic_qconfig})
    assert torch.equal(quantized(x), fxquant.quantize(model, example_inputs=(x,), dynamic=True)(x))
    assert sqnr_db(model(x), quantized(x)) > 30


def test_requests_that_cannot_be_met_are_errors() -> None:
    with pytest.raises(ConfigError, match="no module is called"):
        eager.quantize_dynamic(bert(), {"0.quary"})
    with pytest.raises(ConfigError, match="cannot be quantized dynamically"):
        eager.quantize_dynamic(bert(), {nn.LayerNorm})
    with pytest.raises(ConvertError, match="no kernel"):
        eager.quantize_dynamic(nn.Sequential(nn.ConvTranspose2d(3, 3, 1)), {nn.ConvTranspose2d})
    with pytest.raises(ConfigError, match="float64"):
        eager.quantize_dynamic(bert(), dtype=torch.float64)
