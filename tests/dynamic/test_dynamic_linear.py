"""Linear with int8 weights and an input that is quantized when it arrives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from linears import ENGINES, Attention, Spelled, assert_same, converted, modes, through_file, through_state_dict
from torch import Tensor, nn

import fxquant
from fxquant.errors import ConfigError
from fxquant.numerics.dynamic import choose_dynamic_qparams
from fxquant.numerics.sqnr import sqnr_db

QCONFIGS = (fxquant.default_dynamic_qconfig, fxquant.per_channel_dynamic_qconfig, fxquant.float16_dynamic_qconfig)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("qconfig", QCONFIGS, ids=["tensor", "channel", "float16"])
def test_every_spelling_is_the_reference(engine: str, qconfig: fxquant.QConfig) -> None:
    model, x = Spelled().eval(), torch.randn(5, 12)
    reference, quantized = converted(model, qconfig, (x,), engine)
    assert len(modes(quantized)) == 4
    for given in (x, x[0], torch.randn(2, 3, 12), torch.empty(0, 12), 100 * x, torch.zeros(2, 12)):
        with torch.no_grad():
            assert_same(reference(given), quantized(given))
    assert sqnr_db(model(x), quantized(x)) > (60 if qconfig is QCONFIGS[2] else 28)


class _Product(nn.Module):
    """A product with a parameter, written in some way."""

    def __init__(self, write: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.bias, self.write = nn.Parameter(torch.randn(12, 6)), nn.Parameter(torch.randn(6)), write

    def forward(self, x: Tensor) -> Tensor:
        return self.write(x, self.weight, self.bias)


PRODUCTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "operator": lambda x, weight, bias: x @ weight,
    "matmul": lambda x, weight, bias: torch.matmul(x, weight) + bias,
    "mm": lambda x, weight, bias: x.mm(weight).relu(),
    "addmm": lambda x, weight, bias: torch.addmm(bias, x, weight),
    "functional": lambda x, weight, bias: F.linear(x, weight.t(), bias),
    "einsum": lambda x, weight, bias: torch.einsum("bi,io->bo", x, weight),
    "einsum, weight first": lambda x, weight, bias: torch.einsum("io,bi->ob", weight, x),
    "einsum, heads made": lambda x, weight, bias: torch.einsum("bi,ihd->bhd", x, weight.view(12, 2, 3)),
    "einsum, heads moved": lambda x, weight, bias: torch.einsum("bi,ihd->hdb", x, weight.view(12, 2, 3)),
    "einsum, heads joined": lambda x, w, bias: torch.einsum("bhd,hdo->bo", x.view(-1, 3, 4), w.view(3, 4, 6)),
    "einsum, ellipsis": lambda x, weight, bias: torch.einsum("...i,io->o...", x, weight),
    "einsum, ellipsis beside upper case": lambda x, w, b: torch.einsum("...A,AO->...O", x[None], w),
    "einsum, no result": lambda x, weight, bias: torch.einsum("zi,io", x, weight),
    "einsum, a vector": lambda x, weight, bias: torch.einsum("bi,i->b", x, weight[:, 0]),
    "one of several": lambda x, weight, bias: F.linear(x, torch.stack((weight, -weight))[None][0, 1].t()),
    "weight first": lambda x, weight, bias: weight.t() @ x.t(),
    "weight first, batches": lambda x, weight, bias: weight.t() @ x.t()[None].expand(2, -1, -1),
    "weight first, a vector": lambda x, weight, bias: weight.t() @ x[0],
    "addmm, scaled": lambda x, weight, bias: torch.addmm(bias, x, weight, beta=0.5, alpha=2),
    "addmm, without its summand": lambda x, weight, bias: torch.addmm(bias * torch.nan, x, weight, beta=0),
    "addmm, of activations": lambda x, weight, bias: torch.addmm(x[:, :6], x, weight),
    "addmm, weight first": lambda x, weight, bias: torch.addmm(bias[:, None], weight.t(), x.t()),
}


@pytest.mark.parametrize("qconfig", QCONFIGS, ids=["tensor", "channel", "float16"])
@pytest.mark.parametrize("name", PRODUCTS)
@torch.no_grad()
def test_products_with_parameters_are_linears(name: str, qconfig: fxquant.QConfig) -> None:
    model, x = _Product(PRODUCTS[name]).eval(), torch.randn(5, 12)
    reference, quantized = converted(model, qconfig, (x,))
    assert len(modes(quantized)) == 1
    assert_same(reference(x), quantized(x))
    assert sqnr_db(model(x), quantized(x)) > (60 if qconfig is QCONFIGS[2] else 28)


def test_worst_case_sums_do_not_saturate() -> None:
    net = nn.Sequential(nn.Linear(64, 8)).eval()
    nn.init.uniform_(net[0].weight, 0.9, 1.0)
    x = torch.rand(4, 64) * 0.1 + 0.9
    for engine in ENGINES:
        reference, quantized = converted(net, fxquant.per_channel_dynamic_qconfig, (x,), engine)
        assert_same(reference(x), quantized(x))


@pytest.mark.parametrize("engine", ENGINES)
def test_linears_of_one_input_share_its_quantization(engine: str) -> None:
    model, x = Attention().eval(), torch.randn(2, 5, 8)
    reference, quantized = converted(model, fxquant.per_channel_dynamic_qconfig, (x,), engine)
    assert_same(reference(x), quantized(x))
    assert sum(node.target is torch.ops.fxquant.choose_qparams.default for node in reference.graph.nodes) == 2
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        quantized(x)
    calls = {event.key: event.count for event in profile.key_averages()}
    assert sum(count for name, count in calls.items() if "linear" in name and "dynamic" in name) == 2
    origins = quantized.state.key_origins["int8.query.weight"]
    assert {"query.weight", "key.weight", "value.weight"} <= set(origins)
    assert set(quantized.state_dict()) <= set(quantized.state.key_origins)


def test_one_call_without_calibration() -> None:
    model, x = Attention().eval(), torch.randn(2, 5, 8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    quantized = fxquant.quantize(model, example_inputs=(x,), dynamic=True)
    assert set(modes(quantized)) == {"query", "key", "value", "last"}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert sqnr_db(model(x), quantized(x)) > 30
    rows = {row.node: row for row in fxquant.explain(quantized).rows}
    assert rows["query"].outcome == "int8" and "quantized.linear_dynamic" in rows["query"].kernel
    assert "when it arrives" in rows["query"].reason and rows["matmul"].outcome == "float"
    assert not any("matched nothing" in note for note in fxquant.explain(quantized).notes)


@pytest.mark.parametrize("copied", [through_file, through_state_dict])
def test_files_hold_plain_integers(copied: object) -> None:
    model, x = Attention().eval(), torch.randn(2, 5, 8)
    for qconfig in QCONFIGS:
        _, quantized = converted(model, qconfig, (x,))
        assert all(not value.is_quantized for value in quantized.state_dict().values())
        assert torch.equal(copied(quantized)(x), quantized(x))  # type: ignore[operator]
        assert str(fxquant.explain(copied(quantized))) == str(fxquant.explain(quantized))  # type: ignore[operator]


class _Mixed(nn.Module):
    """A static convolution, linears of all kinds, an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dynamic, self.narrow = nn.Conv1d(4, 8, 3, padding=1), nn.Linear(8, 16), nn.Linear(8, 16)
        self.static, self.plain = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x)).transpose(1, 2)
        y = self.static(torch.relu(self.dynamic(y)) + self.narrow(y).reshape(y.shape[0], -1, 16))
        result: Tensor = self.plain(y)
        return result


@pytest.mark.parametrize("whole", ["static", "dynamic"])
def test_entries_of_all_kinds_mix(whole: str) -> None:
    static, dynamic = fxquant.get_default_qconfig(), fxquant.per_channel_dynamic_qconfig
    mapping = fxquant.QConfigMapping().set_global(static if whole == "static" else dynamic)
    mapping.set_module_name("conv", static).set_module_name("static", static).set_module_name("dynamic", dynamic)
    mapping.set_module_name("narrow", fxquant.float16_dynamic_qconfig).set_module_name("plain", None)
    model, x = _Mixed().eval(), torch.randn(2, 4, 7)
    reference, quantized = converted(model, mapping, (x,))
    assert modes(quantized) == {"dynamic": "dynamic", "narrow": "float16"}
    assert {unit.anchor for unit in quantized.plan.units if unit.output} >= {"conv", "static"}
    with torch.no_grad():
        step = quantized.get_buffer("int8.static.scale") * model.plain.weight.abs().sum(1).max()
        assert (reference(x) - quantized(x)).abs().max() <= 1.01 * step  # a quantum of the static linear at most
    assert sqnr_db(model(x), quantized(x)) > 25


def test_what_has_no_such_kernel_says_so() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Flatten()).eval()
    quantized = fxquant.quantize(net, example_inputs=(torch.randn(2, 4),), dynamic=True)
    unit = next(unit for unit in quantized.plan.units if unit.op == "sigmoid")
    assert unit.outcome == "float" and "taken at run time" in unit.reason


class _Around(nn.Module):
    """Operators that share their input's range or choose between values, around a static convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 3, 1).amax(1, keepdim=True)
        y = torch.maximum(y + y, y).permute(0, 3, 1, 2)
        z = self.conv(y)
        z = torch.where(z > 0, z, z.roll(1))
        result: Tensor = self.last(torch.maximum(z, z * 2).mean((2, 3)))
        return result


@pytest.mark.parametrize("conv", [None, fxquant.get_default_qconfig(), fxquant.float16_dynamic_qconfig])
def test_operators_that_nobody_measures_stay_float(conv: fxquant.QConfig | None) -> None:
    mapping = fxquant.QConfigMapping().set_global(fxquant.per_channel_dynamic_qconfig).set_module_name("conv", conv)
    model, x = _Around().eval(), torch.randn(2, 3, 4, 4)
    reference, quantized = converted(model, mapping, (x,))
    outcomes = {unit.op: unit.outcome for unit in quantized.plan.units}
    assert outcomes["maximum"] == "float" and outcomes["linear"] == "int8"
    assert outcomes["where"] == ("int8" if conv is not None and conv.activation().dtype == torch.uint8 else "float")
    assert sqnr_db(model(x), quantized(x)) > 25 and sqnr_db(reference(x), quantized(x)) > 40


def test_excluded_at_convert() -> None:
    model, x = Attention().eval(), torch.randn(2, 5, 8)
    observed = fxquant.prepare_fx(model, fxquant.per_channel_dynamic_qconfig, (x,))
    exclude = fxquant.QConfigMapping().set_global(fxquant.per_channel_dynamic_qconfig).set_module_name("key", None)
    assert set(modes(fxquant.convert_fx(observed, qconfig_mapping=exclude))) == {"query", "value", "last"}


def test_data_that_does_not_fit() -> None:
    net, x = nn.Sequential(nn.Linear(4, 4)).eval(), torch.randn(2, 4)
    with pytest.raises(ConfigError, match="calibrates nothing"):
        fxquant.quantize(net, [x], dynamic=True)
    with pytest.raises(ConfigError, match="needs example_inputs"):
        fxquant.quantize(net, dynamic=True)
    with pytest.raises(ConfigError, match="dynamic=True and example_inputs"):
        fxquant.quantize(net)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6, 1e-30, 0.0, 1e6])
@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_parameters_are_the_kernels(scale: float, shift: float) -> None:
    x = (torch.randn(3, 64) + shift) * scale
    found = torch.ops.aten.quantize_per_tensor_dynamic(x, torch.quint8, False)
    step, zero_point = choose_dynamic_qparams(x, 0, 255)
    assert float(step) == pytest.approx(found.q_scale(), rel=1e-7) and int(zero_point) == found.q_zero_point()
