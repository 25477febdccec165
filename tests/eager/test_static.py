"""Static quantization by hand: fuse, prepare, calibrate, convert."""

from __future__ import annotations

import copy
import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hand_written import Arithmetic, mobilenet
from torch import Tensor, nn

import fxquant
from fxquant import eager
from fxquant.errors import CalibrationError, ConfigError, FxquantError
from fxquant.numerics.sqnr import sqnr_db

QCONFIG = fxquant.get_default_qconfig("x86")
ENGINES = tuple(torch.backends.quantized.supported_engines)


def torch_ao() -> Any:
    """torch.ao's names in one namespace; skips where it is gone."""
    quantization = pytest.importorskip("torch.ao.quantization")
    functional = pytest.importorskip("torch.ao.nn.quantized").FloatFunctional
    names = ("QuantStub", "DeQuantStub", "QuantWrapper", "fuse_modules", "prepare", "convert", "get_default_qconfig")
    return SimpleNamespace(FloatFunctional=functional, **{name: getattr(quantization, name) for name in names})


def tutorial(style: Any, batches: list[Tensor]) -> tuple[nn.Module, nn.Module]:
    """The static tutorial, line by line: the float model, and the quantized one."""
    reference = mobilenet(style)
    model = mobilenet(style)
    model.fuse_model(style)
    model.qconfig = style.get_default_qconfig("x86")
    style.prepare(model, inplace=True)
    for batch in batches:
        model(batch)
    style.convert(model, inplace=True)
    return reference, model


def by_hand(model: nn.Module, *batches: Tensor) -> nn.Module:
    """Prepare and convert ``model``, which has its stubs."""
    model.qconfig = QCONFIG
    prepared = eager.prepare(model)
    for batch in batches:
        prepared(batch)
    return eager.convert(prepared)


def assert_same_integers(result: Tensor, expected: Tensor) -> None:
    """Scales are found from floats that the two styles round in another order, so they may differ in the last bit."""
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def images(count: int) -> list[Tensor]:
    return [torch.randn(4, 3, 16, 16) for _ in range(count)]


@pytest.mark.filterwarnings("ignore")
def test_the_tutorial_ports_by_its_imports_and_is_not_less_exact() -> None:
    theirs, batches = torch_ao(), images(6)
    reference, model = tutorial(eager, batches)
    expected, other = tutorial(theirs, batches)
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(reference(x), expected(x))
    assert sqnr_db(reference(x), model(x)) > max(25, sqnr_db(expected(x), other(x)) - 0.5)


@pytest.mark.filterwarnings("ignore:never called")
def test_the_same_network_through_both_styles_gives_the_same_integers() -> None:
    batches, x = images(3), torch.randn(4, 3, 16, 16)
    reference, model = tutorial(eager, batches)
    observed = fxquant.prepare_fx(reference, fxquant.get_default_qconfig_mapping("x86"), (x,))
    for batch in batches:
        observed(batch)
    assert_same_integers(model(x), fxquant.convert_fx(observed)(x))


@pytest.mark.filterwarnings("ignore:never called")
def test_saves_copies_and_loads() -> None:
    x = torch.randn(4, 3, 16, 16)
    model, other = tutorial(eager, images(2))[1], tutorial(eager, images(2))[1]
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), model(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    assert not any(value.is_quantized for value in model.state_dict().values())
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))


MODULES = [
    (nn.Conv1d(4, 4, 3), (2, 4, 9)), (nn.Conv2d(4, 6, 3, padding="same"), (2, 4, 9, 9)),
    (nn.Conv2d(4, 4, 3, groups=4, stride=2), (2, 4, 9, 9)), (nn.Conv3d(4, 4, 3), (2, 4, 5, 5, 5)),
    (nn.ConvTranspose2d(4, 6, 3, 2, groups=2), (2, 4, 5, 5)),
    (nn.Linear(8, 5), (3, 8)), (nn.BatchNorm1d(4), (2, 4, 9)),
    (nn.BatchNorm2d(4), (2, 4, 9, 9)), (nn.BatchNorm3d(4), (2, 4, 3, 3, 3)), (nn.Hardswish(), (2, 4, 9)),
    (nn.Sigmoid(), (2, 9)), (nn.Tanh(), (2, 9)), (nn.ELU(), (2, 9)), (nn.LeakyReLU(), (2, 9)), (nn.GELU(), (2, 9)),
    (nn.SiLU(), (2, 9)), (nn.PReLU(), (2, 4, 9)), (nn.PReLU(4), (2, 4, 9)), (nn.Hardsigmoid(), (2, 9)),
]  # fmt: skip
OTHERWISE_ALONE = [
    (nn.ConvTranspose1d(4, 4, 3, 2), (2, 4, 9)), (nn.ConvTranspose3d(4, 4, 2, 2), (2, 4, 3, 3, 3)),
    (nn.LayerNorm(9), (2, 4, 9)), (nn.GroupNorm(2, 4), (2, 4, 9)), (nn.InstanceNorm2d(4), (2, 4, 9, 9)),
    (nn.Softmax(-1), (2, 9)), (nn.ReLU6(), (2, 9)), (nn.Hardtanh(), (2, 9)), (nn.ReLU(), (2, 9)),
    (nn.Dropout(), (2, 9)), (nn.Identity(), (2, 9)), (nn.MaxPool2d(2), (2, 4, 8, 8)), (nn.Flatten(), (2, 4, 9)),
    (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), (2, 4, 9, 9)),
]  # fmt: skip


@pytest.mark.parametrize(("module", "shape"), MODULES, ids=lambda value: str(value)[:32])
def test_every_module_computes_what_it_computes_in_a_graph(module: nn.Module, shape: tuple[int, ...]) -> None:
    x, module = torch.randn(shape), module.eval()
    quantized = by_hand(eager.QuantWrapper(module), x)
    assert type(quantized.module) is not type(module)
    observed = fxquant.prepare_fx(module, QCONFIG, (x,))
    observed(x)
    assert_same_integers(quantized(x), fxquant.convert_fx(observed)(x))


@pytest.mark.parametrize(("module", "shape"), OTHERWISE_ALONE, ids=lambda value: str(value)[:32])
def test_modules_that_run_otherwise_in_a_graph_are_right_between_stubs(
    module: nn.Module, shape: tuple[int, ...]
) -> None:
    x, module = torch.randn(shape), module.eval()
    assert sqnr_db(module(x), by_hand(eager.QuantWrapper(module), x)(x)) > 34


@pytest.mark.parametrize(
    "modules",
    [
        (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)), (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
        (nn.Conv2d(4, 6, 3), nn.ReLU()), (nn.BatchNorm2d(4), nn.ReLU()),
        (nn.ConvTranspose2d(4, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU()),
    ],
    ids=lambda modules: "+".join(type(module).__name__ for module in modules),
)  # fmt: skip
def test_fused_groups_are_one_module(modules: tuple[nn.Module, ...]) -> None:
    model, x = nn.Sequential(*modules).eval(), torch.randn(2, 4, 6, 6)
    fused = eager.fuse_modules(model, [str(index) for index in range(len(modules))])
    assert all(isinstance(module, nn.Identity) for module in fused[1:])
    torch.testing.assert_close(fused(x), model(x))
    observed = fxquant.prepare_fx(model, QCONFIG, (x,))
    observed(x)
    assert_same_integers(by_hand(eager.QuantWrapper(fused), x)(x), fxquant.convert_fx(observed)(x))


def test_linear_batch_norm_relu_fuse() -> None:
    model, x = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU()).eval(), torch.randn(9, 8)
    fused = eager.fuse_modules(model, [["0", "1", "2"]])
    torch.testing.assert_close(fused(x), model(x))
    assert sqnr_db(model(x), by_hand(eager.QuantWrapper(fused), x)(x)) > 34


def test_arithmetic_in_functionals_gives_the_integers_of_a_graph() -> None:
    model, x = Arithmetic(eager).eval(), torch.randn(2, 4, 8)
    quantized = by_hand(model, x)
    observed = fxquant.prepare_fx(model, QCONFIG, (x,))
    observed(x)
    assert sqnr_db(model(x), quantized(x)) > 30
    assert sqnr_db(fxquant.convert_fx(observed)(x), quantized(x)) > 34


def test_numbers_in_functionals() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quant, self.dequant, self.f = eager.QuantStub(), eager.DeQuantStub(), eager.FloatFunctional()

        def forward(self, x: Tensor) -> Tensor:
            x = self.f.add(self.quant(x), self.quant(x))
            return self.dequant(self.f.add_scalar(self.f.mul_scalar(x, 0.5), 1.0))

    x = torch.randn(4, 8)
    assert sqnr_db(x + 1, by_hand(Scaled().eval(), x)(x)) > 34


@pytest.mark.filterwarnings("ignore:never called")
def test_nothing_is_changed_unless_in_place() -> None:
    model = mobilenet(eager)
    model.qconfig = QCONFIG
    before, state = repr(model), {key: value.clone() for key, value in model.state_dict().items()}
    prepared = eager.prepare(model)
    prepared(torch.randn(4, 3, 16, 16))
    observed = repr(prepared)
    eager.convert(prepared)
    assert (repr(model), repr(prepared)) == (before, observed)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())
    assert eager.prepare(model, inplace=True) is model


def test_a_qconfig_of_none_keeps_a_module_float() -> None:
    model = nn.Sequential(eager.QuantWrapper(nn.Linear(8, 8)), nn.Linear(8, 4)).eval()
    model[1].qconfig = None
    x = torch.randn(3, 8)
    quantized = by_hand(model, x)
    assert type(quantized[1]) is nn.Linear
    assert type(quantized[0].module) is not nn.Linear


def test_a_module_with_two_names_stays_one() -> None:
    layer = nn.Linear(8, 8)
    model, x = eager.QuantWrapper(nn.Sequential(layer, nn.ReLU(), layer)).eval(), torch.randn(3, 8)
    quantized = by_hand(model, x)
    assert quantized.module[0] is quantized.module[2]
    assert sqnr_db(model(x), quantized(x)) > 28


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["x86", "qnnpack"])
def test_configurations_of_torch_ao_are_taken(name: str) -> None:
    model, x = eager.QuantWrapper(nn.Conv2d(4, 4, 3)).eval(), torch.randn(2, 4, 8, 8)
    model.qconfig = torch_ao().get_default_qconfig(name)
    quantized = eager.quantize(model, lambda model, x: model(x), (x,))
    assert sqnr_db(model(x), quantized(x)) > 28


@pytest.mark.filterwarnings("ignore:never called")
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "none"])
def test_every_engine(engine: str) -> None:
    previous = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        x = torch.randn(4, 3, 16, 16)
        reference, model = tutorial(eager, images(4))
        assert sqnr_db(reference(x), model(x)) > 25
    finally:
        torch.backends.quantized.engine = previous


def test_observers_are_where_eager_mode_has_them() -> None:
    model = eager.QuantWrapper(nn.Linear(8, 8)).eval()
    model.qconfig = eager.default_qconfig
    prepared = eager.prepare(model)
    prepared(torch.randn(3, 8))
    scale, zero_point = prepared.module.activation_post_process.calculate_qparams()
    quantized = eager.convert(prepared)
    assert quantized.module.scale == scale
    assert quantized.module.zero_point == zero_point


def test_stubs_put_by_add_quant_dequant() -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.randn(3, 8)
    expected = model(x)
    eager.propagate_qconfig_(model, {nn.Linear: QCONFIG})
    quantized = eager.quantize(eager.add_quant_dequant(model), lambda model, x: model(x), (x,))
    assert sqnr_db(expected, quantized(x)) > 30


def test_what_calibration_never_calls_stays_float_and_is_named() -> None:
    with pytest.warns(UserWarning, match=r"never called.*features\.2\.skip_add"):
        tutorial(eager, images(1))


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ConfigError, match="qconfig"):
        eager.prepare(eager.QuantWrapper(nn.Linear(4, 4)).eval())
    with pytest.raises(ConfigError, match="no group"):
        eager.fuse_modules(nn.Sequential(nn.ReLU(), nn.Linear(4, 4)).eval(), ["0", "1"])
    with pytest.raises(ConfigError, match=r"eval\(\)"):
        eager.fuse_modules(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), ["0", "1"])
    model = nn.Sequential(nn.Linear(4, 4)).eval()
    with pytest.raises(FxquantError, match="QuantStub"):
        by_hand(model, torch.randn(2, 4))(torch.randn(2, 4))
    model.qconfig = QCONFIG
    with pytest.raises(CalibrationError, match="saw no data"):
        eager.convert(eager.prepare(model))
    with pytest.raises(ConfigError, match="weight_only"):
        by_hand(nn.Sequential(nn.Embedding(4, 4)).eval())
