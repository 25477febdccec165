"""Calls of torch.ao's eager mode that work by changing the import: hooks, lists, tables, custom classes, one call."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from test_borders_in_graphs import styles as stubs_of
from torch import Tensor, nn

import fxquant
from fxquant import eager
from fxquant.errors import ConfigError, FxquantError
from fxquant.numerics.sqnr import sqnr_db

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:Please use quant_min and quant_max"
)


def styles() -> list[Any]:
    """fxquant.eager and, where it exists, torch.ao.quantization."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torch.ao.quantization as theirs
        except ImportError:
            return [eager]
    return [eager, theirs]


STYLES = pytest.mark.parametrize("style", styles(), ids=["fxquant", "torch.ao"][: len(styles())])


def between(style: Any, *modules: nn.Module) -> Any:
    """Modules between stubs, with a QConfig."""
    model = style.QuantWrapper(nn.Sequential(*modules)).eval()
    model.qconfig = style.default_qconfig
    return model


@STYLES
def test_hooks_of_swapped_modules_go_on(style: Any) -> None:
    called: list[tuple[str, bool]] = []
    model, x = between(style, nn.Linear(8, 8), nn.Hardswish(), nn.Linear(8, 4)), torch.randn(3, 8)
    for module in model.module:
        module.register_forward_pre_hook(lambda module, inputs: called.append(("before", inputs[0].is_quantized)))
        module.register_forward_hook(lambda module, inputs, output: called.append(("after", output.is_quantized)))
    prepared = style.prepare(model)
    prepared(x)
    assert called == [("before", False), ("after", False)] * 3
    quantized = style.convert(prepared)
    called.clear()
    quantized(x)
    assert called == [("before", True), ("after", True)] * 3


@STYLES
def test_hooks_of_dynamic_modules_go_on(style: Any) -> None:
    called: list[str] = []
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    model[0].register_forward_hook(lambda module, inputs, output: called.append("first"))
    model[2].register_forward_pre_hook(lambda module, inputs: called.append("last"))
    style.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)(torch.randn(3, 8))
    assert called == ["first", "last"]


def test_hooks_with_keywords_and_of_fused_layers_go_on() -> None:
    called: list[str] = []
    layer = nn.Linear(8, 8)
    model = nn.Sequential(layer, nn.ReLU()).eval()
    layer.register_forward_pre_hook(lambda module, args, kwargs: called.append("before"), with_kwargs=True)
    fused = eager.fuse_modules(model, ["0", "1"])
    fused[0].register_forward_hook(lambda module, args, kwargs, output: called.append("after"), with_kwargs=True)
    quantized = eager.quantize(between(eager, fused), lambda model, x: model(x), (torch.randn(3, 8),))
    called.clear()
    quantized(torch.randn(3, 8))
    assert called == ["before", "after"]


@STYLES
def test_one_call_forms_set_the_mode(style: Any) -> None:
    x, y = torch.randn(6, 8), torch.zeros(6)
    model = between(style, nn.Linear(8, 8), nn.Dropout(0.9), nn.Linear(8, 4)).train()
    quantized = style.quantize(model, style.default_eval_fn, [[(x, y)]])
    assert model.training and not quantized.training
    assert sqnr_db(model.eval()(x), quantized(x)) > 25
    model.qconfig = style.get_default_qat_qconfig("x86")
    trained = style.quantize_qat(model, style.default_eval_fn, [[(x, y)]])
    assert not model.training and sqnr_db(model(x), trained.eval()(x)) > 20
    assert not style.quantize_dynamic(nn.Sequential(nn.Linear(8, 8), nn.Dropout()).train()).training


@STYLES
def test_attributes_go_before_the_spec_of_quantize_dynamic(style: Any) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    model[0].qconfig = None
    quantized = style.quantize_dynamic(model, {nn.Linear})
    assert [type(layer) is nn.Linear for layer in quantized] == [True, False]


@pytest.mark.parametrize("style", stubs_of(), ids=["fxquant", "torch.ao"][: len(stubs_of())])
@pytest.mark.filterwarnings("ignore:never called")
def test_functionals_of_numbers_alone(style: Any) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quant, self.dequant, self.f = style.QuantStub(), style.DeQuantStub(), style.FloatFunctional()

        def forward(self, x: Tensor) -> Tensor:
            return self.dequant(self.f.add_scalar(self.f.mul_scalar(self.quant(x), 0.5), 1.0))

    model, x = Scaled().eval(), torch.randn(4, 8)
    model.qconfig = eager.default_qconfig
    quantized = eager.quantize(model, lambda model, x: model(x), (x,))
    assert sqnr_db(model(x), quantized(x)) > 34
    with pytest.raises(FxquantError, match="calibration never called it"):
        quantized.f.add(quantized.quant(x), quantized.quant(x))
    assert torch.equal(quantized.f.cat([x, x], 1), torch.cat([x, x], 1))


class Block(nn.Module):
    """A module of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class ObservedBlock(Block):
    """What observes it."""

    @classmethod
    def from_float(cls, block: Any) -> ObservedBlock:
        made = cls()
        made.layer, made.qconfig = block.layer, block.qconfig
        return made


class QuantizedBlock(nn.Module):
    """What runs in its place."""

    def __init__(self, layer: nn.Module, scale: float, zero_point: int) -> None:
        super().__init__()
        self.layer, self.scale, self.zero_point = layer, scale, zero_point

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x.dequantize())
        return torch.quantize_per_tensor(y, self.scale, self.zero_point, torch.quint8)

    @classmethod
    def from_observed(cls, block: Any) -> QuantizedBlock:
        scale, zero_point = block.activation_post_process.calculate_qparams()
        return cls(block.layer, float(scale), int(zero_point))


@STYLES
def test_custom_modules(style: Any) -> None:
    model, x = between(style, Block(), nn.ReLU()), torch.randn(3, 8)
    observed = {"float_to_observed_custom_module_class": {Block: ObservedBlock}}
    prepared = style.prepare(model, prepare_custom_config_dict=observed)
    assert type(prepared.module[0]) is ObservedBlock
    prepared(x)
    custom = {"observed_to_quantized_custom_module_class": {ObservedBlock: QuantizedBlock}}
    quantized = style.convert(prepared, convert_custom_config_dict=custom)
    assert type(quantized.module[0]) is QuantizedBlock and type(quantized.module[0].layer) is nn.Linear
    assert sqnr_db(model(x), quantized(x)) > 30


class Scaled(nn.Linear):
    """A leaf of the user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class QuantizedScaled(QuantizedBlock):
    """What runs in its place, on a grid of its own."""

    @classmethod
    def from_float(cls, module: Any) -> QuantizedScaled:
        return cls(module, 0.05, 128)


@STYLES
def test_tables_of_classes(style: Any) -> None:
    model, x = between(style, Scaled(8, 8), nn.Linear(8, 8)), torch.randn(3, 8)
    prepared = style.prepare(model)
    prepared(x)
    table = {**style.get_default_static_quant_module_mappings(), Scaled: QuantizedScaled}
    quantized = style.convert(prepared, mapping=table)
    assert type(quantized.module[0]) is QuantizedScaled and type(quantized.module[1]) is not nn.Linear
    assert sqnr_db(model(x), quantized(x)) > 25
    table = style.get_default_dynamic_quant_module_mappings()
    del table[nn.LSTM]
    both = style.quantize_dynamic(nn.ModuleList([nn.LSTM(4, 4), nn.Linear(4, 4)]), mapping=table)
    assert [type(module) in (nn.LSTM, nn.Linear) for module in both] == [True, False]


def test_tables_and_configs_of_torch_ao_stand_for_our_kernels() -> None:
    theirs = pytest.importorskip("torch.ao.quantization")
    config, table = theirs.get_default_custom_config_dict(), theirs.get_default_static_quant_module_mappings()
    model, x = between(eager, nn.Linear(8, 8), nn.ReLU6()), torch.randn(3, 8)
    prepared = eager.prepare(model, prepare_custom_config_dict=config)
    prepared(x)
    table = {**table, eager.QuantStub: None, eager.DeQuantStub: None}
    quantized = eager.convert(prepared, table, convert_custom_config_dict=config)
    assert torch.equal(quantized(x), eager.convert(prepared)(x)) and type(quantized.module[0]) is not nn.Linear
    assert type(eager.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), mapping=table)[0]) is not nn.Linear


def test_lists_of_prepare() -> None:
    model, x = between(eager, Block(), nn.Hardswish()), torch.randn(3, 8)
    prepared = eager.prepare(model, observer_non_leaf_module_list=[Block])
    prepared(x)
    y = model.module[0](x)
    observer = prepared.module[0].activation_post_process
    assert (observer.min_val, observer.max_val) == (y.min(), y.max())
    assert not hasattr(eager.convert(prepared).module[0], "activation_post_process")
    only = between(eager, nn.Linear(8, 8), eager.DeQuantStub(), nn.Hardswish())
    prepared = eager.prepare(only, allow_list=[nn.Linear])
    prepared(x)
    quantized = eager.convert(prepared)
    assert type(quantized.module[2]) is nn.Hardswish and type(quantized.module[0]) is not nn.Linear


@STYLES
def test_fusion_by_functions_of_the_user(style: Any) -> None:
    def make(is_qat: bool, *modules: nn.Module) -> nn.Module:
        return nn.Sequential(*modules)

    def fuse(modules: list[nn.Module], is_qat: bool, additional: Any) -> list[nn.Module]:
        return [nn.Sequential(*modules), nn.Identity()]

    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).eval(), torch.randn(2, 4)
    config = {"additional_fuser_method_mapping": {(nn.Linear, nn.Tanh): make}}
    for arguments in ({"fuse_custom_config_dict": config}, {"fuser_func": fuse}):
        for call in (style.fuse_modules, style.fuse_modules_qat):
            fused = call(model, ["0", "1"], **arguments)
            assert type(fused[0]) is nn.Sequential and type(fused[1]) is nn.Identity
            assert torch.equal(fused(x), model(x))


@STYLES
def test_relus_fuse_in_training_mode(style: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3), nn.ReLU()).train()
    fused = style.fuse_modules(model, [["0", "1"], ["2", "3"]])
    assert [type(module) is nn.Identity for module in fused] == [False, True, False, True]
    assert type(style.fuse_modules_qat(model, ["2", "3"])[3]) is nn.Identity


def test_names_of_torch_ao_are_here() -> None:
    theirs = pytest.importorskip("torch.ao.quantization")
    missing = {name for name in theirs.__all__ if hasattr(fxquant, name) and not hasattr(eager, name)}
    assert not missing - {"QConfigMapping"} and hasattr(eager, "QConfigMapping")


def test_configs_that_are_none_are_errors() -> None:
    model = between(eager, Block())
    with pytest.raises(ConfigError, match="float_to_observed_custom_module_class"):
        eager.prepare(model, prepare_custom_config_dict={"float_to_observed": {}})
    with pytest.raises(ConfigError, match="from_float"):
        eager.prepare(model, prepare_custom_config_dict={"float_to_observed_custom_module_class": {Block: Block}})
    with pytest.raises(ConfigError, match="additional_fuser_method_mapping"):
        eager.fuse_modules(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), ["0", "1"], fuse_custom_config_dict={"x": 1})
