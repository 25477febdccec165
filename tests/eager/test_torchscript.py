"""Converted models through ``torch.jit.script``, as the static tutorial deploys them."""

from __future__ import annotations

import copy
import gc
import io
import weakref
from typing import Any

import pytest
import torch
from hand_written import Arithmetic, mobilenet
from torch import Tensor, nn

import fxquant
from fxquant import eager
from fxquant.errors import FxquantError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:never called")


def loaded(model: nn.Module) -> Any:
    """The model scripted, saved and loaded."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(model), file)  # type: ignore[no-untyped-call]
    file.seek(0)
    return torch.jit.load(file)  # type: ignore[no-untyped-call]


def by_hand(model: nn.Module, x: Tensor) -> nn.Module:
    """Quantized, with stubs in place."""
    model.qconfig = eager.get_default_qconfig("x86")
    prepared = eager.prepare(model.eval())
    prepared(x)
    return eager.convert(prepared)


def test_the_static_tutorial() -> None:
    model, x = mobilenet(eager), torch.randn(4, 3, 16, 16)
    model.fuse_model(eager)
    quantized = by_hand(model, x)
    expected, keys = quantized(x), list(quantized.state_dict())
    assert torch.equal(loaded(quantized)(x), expected)
    assert torch.equal(quantized(x), expected) and list(quantized.state_dict()) == keys
    assert torch.equal(copy.deepcopy(quantized)(x), expected)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv1d(4, 4, 3), (2, 4, 9)), (nn.Conv3d(4, 4, 3), (2, 4, 5, 5, 5)), (nn.Linear(8, 4), (3, 8)),
        (nn.Sequential(nn.Linear(8, 4), nn.ReLU6()), (3, 8)), (nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), (4, 5, 5)),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_modules(module: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    quantized = by_hand(eager.QuantWrapper(module), x)
    assert torch.equal(loaded(quantized)(x), quantized(x))


def test_functions_of_one_number_round_as_tables_do() -> None:
    modules = nn.Sequential(nn.Hardswish(), nn.Sigmoid(), nn.LayerNorm(8))
    x = torch.randn(64, 8)
    quantized = by_hand(eager.QuantWrapper(modules), x)
    expected, scale = quantized(x), float(quantized.module[2].scale)
    assert (loaded(quantized)(x) - expected).abs().max() <= 1.001 * scale


@pytest.mark.parametrize(
    "module", [nn.Hardswish(), nn.Sigmoid(), nn.LayerNorm(8)], ids=["hardswish", "sigmoid", "norm"]
)
def test_each_function_of_one_number_by_itself(module: nn.Module) -> None:
    x = torch.randn(64, 8)
    quantized = by_hand(eager.QuantWrapper(nn.Sequential(module)), x)
    expected, scale = quantized(x), float(quantized.module[0].scale)
    assert (loaded(quantized)(x) - expected).abs().max() <= 1.001 * scale


def test_kernels_stay_while_what_took_their_place_is_there() -> None:
    model = by_hand(eager.QuantWrapper(nn.Sequential(nn.Hardswish())), torch.randn(4, 8))
    kernels = [weakref.ref(item) for item in model.modules() if hasattr(item, "__prepare_scriptable__")]
    scripted = torch.jit.script(model)
    gc.collect()
    assert len(kernels) == 3 and all(item() is not None for item in kernels), scripted


def test_arithmetic() -> None:
    x = torch.randn(2, 4, 8)
    quantized = by_hand(Arithmetic(eager), x)
    assert torch.equal(loaded(quantized)(x), quantized(x))


@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16], ids=str)
def test_dynamic_linears(dtype: torch.dtype) -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.randn(3, 8)
    quantized = eager.quantize_dynamic(eager.fuse_modules(model, ["0", "1"]), dtype=dtype)
    torch.testing.assert_close(loaded(quantized)(x), quantized(x), rtol=1e-6, atol=1e-6)


def test_what_cannot_be_scripted_says_what_can() -> None:
    with pytest.raises(FxquantError, match=r"RecurrentLayers[\s\S]*torch.jit.trace"):
        torch.jit.script(eager.quantize_dynamic(nn.Sequential(nn.LSTM(4, 4))))  # type: ignore[no-untyped-call]
    quantized = fxquant.quantize(nn.Sequential(nn.Linear(4, 4)).eval(), example_inputs=torch.randn(2, 4), dynamic=True)
    with pytest.raises(FxquantError, match=r"quantized model[\s\S]*torch.jit.trace"):
        torch.jit.script(quantized)  # type: ignore[no-untyped-call]
