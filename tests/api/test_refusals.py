"""Mistakes at the calls themselves: each is an ``FxquantError`` that says what to pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import fxquant
from fxquant import FxquantError, MinMaxObserver, PrepareCustomConfig, QConfig, QConfigMapping

X = torch.randn(2, 3, 10, 10)


def _net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5)).eval()


def _prepare(model: Any = None, mapping: Any = None, custom: Any = None) -> Any:
    mapping = fxquant.get_default_qconfig_mapping("x86") if mapping is None else mapping
    return fxquant.prepare_fx(_net() if model is None else model, mapping, (X,), custom)


def _observed() -> Any:
    observed = _prepare()
    observed(X)
    return observed


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: "model", "expected an nn.Module"),
        (lambda: torch.relu, "small nn.Module"),
        (lambda: nn.Linear, "pass an instance"),
        (lambda: _net().state_dict(), "weights is not a model"),
        (_observed, "pass the float model"),
        (lambda: fxquant.convert_fx(_observed()), "pass the float model"),
        (lambda: fxquant.convert_to_reference_fx(_observed()), "pass the float model"),
        (lambda: nn.LazyLinear(3).eval(), "lazy"),
    ],
)
def test_what_is_no_float_model(make: Callable[[], Any], words: str) -> None:
    for call in (_prepare, lambda model: fxquant.quantize(model, [X], progress=False), fxquant.fuse_fx):
        with pytest.raises(FxquantError, match=words):
            call(make())


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        (QConfig, "qconfig_mapping is a type"),
        (QConfigMapping().set_global("int8"), "set_global is given 'int8'"),  # type: ignore[arg-type]
        (QConfigMapping().set_global(QConfig), "set_global is given QConfig"),  # type: ignore[arg-type]
        (QConfigMapping().set_global(QConfig(None, MinMaxObserver)), "the activation of its QConfig is None"),
        (QConfigMapping().set_object_type(nn.Conv2d, MinMaxObserver), "set_object_type.*no QConfig"),  # type: ignore[arg-type]
        (QConfigMapping().set_object_type(nn.ReLU(), None), "pass ReLU for all of them"),
        (QConfigMapping().set_object_type(3, None), "set_object_type is given 3"),  # type: ignore[arg-type]
        (QConfigMapping().set_module_name(0, None), r"set_module_name\(0\)"),  # type: ignore[arg-type]
        ({"module_name": [(0, None)]}, r"set_module_name\(0\)"),
        (QConfigMapping().set_module_name_object_type_order("", nn.ReLU(), 0, None), "pass ReLU"),
    ],
)
def test_entries_that_are_none(mapping: Any, words: str) -> None:
    with pytest.raises(FxquantError, match=words):
        _prepare(mapping=mapping)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PrepareCustomConfig().set_non_traceable_module_names("0"), r"write \['0'\]"),
        (lambda: PrepareCustomConfig().set_non_traceable_module_classes(nn.Linear), r"write \[Linear\]"),  # type: ignore[arg-type]
        (lambda: PrepareCustomConfig().set_non_traceable_module_classes([nn.ReLU()]), "no class"),  # type: ignore[list-item]
        (lambda: PrepareCustomConfig().set_preserved_attributes("version"), r"write \['version'\]"),
        (lambda: _prepare(custom={"non_traceable_module_name": "0"}), r"write \['0'\]"),
    ],
)
def test_lists_that_are_none(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(FxquantError, match=words):
        make()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (X, r"one Tensor.*first row(.|\n)*pass \[x\], or x\.split\(32\)"),
        (TensorDataset(X, torch.zeros(2).long()), r"one TensorDataset.*first item(.|\n)*DataLoader"),
        ([X, torch.randn(2, 4, 10, 10)], "fails on calibration batch 1: RuntimeError"),
        ([X, torch.randn(2, 3, 9, 9)], "fails on calibration batch 1: RuntimeError"),
    ],
)
def test_data_that_does_not_fit(data: Any, words: str) -> None:
    with pytest.raises(fxquant.FxquantError, match=words):
        fxquant.quantize(_net(), data, progress=False)


def test_rows_of_a_tensor_may_be_batches() -> None:
    """Where the model takes them."""
    quantized = fxquant.quantize(nn.Conv2d(3, 4, 3).eval(), X, progress=False)
    assert quantized(X).shape == (2, 4, 8, 8)


def test_stages_are_in_evaluation_mode() -> None:
    """They come from a model in it; what computes differently in training keeps the mode the user gave it."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout()).eval()
    model[1].train()
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping("x86"), (X,))
    assert observed.get_submodule("1").training and not observed.get_submodule("3").training
    observed(X)
    fused = fxquant.fuse_fx(model, example_inputs=(X,))
    for stage in (observed, fused, fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)):
        assert not stage.training
    assert fxquant.prepare_fx(fused, fxquant.get_default_qconfig_mapping("x86"), (X,)).plan.units


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch moves tensors there")
def test_moving_where_torch_cannot_is_refused_too() -> None:
    with pytest.raises(FxquantError, match="int8 kernels run on the CPU"):
        fxquant.convert_fx(_observed()).cuda()
