"""Sums that convolutions do themselves: when, and that nothing else is overwritten."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.inspect.agreement import check_agreement
from fxquant.numerics.sqnr import sqnr_db

SIDE = 100  # 32 channels of 100 x 100 numbers are many enough, of 48 x 48 they are not
Body = Callable[["Net", Tensor], Any]


class Net(nn.Module):
    """Convolutions of 32 channels, put together by ``body``."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 4, 1)
        self.conv, self.other, self.norm = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.body = body

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


def _block(m: Net, x: Tensor) -> Tensor:
    y = F.relu(m.first(x))
    return m.last(F.relu(m.conv(F.relu(m.other(y))) + y))  # type: ignore[no-any-return]


def _two_convolutions(m: Net, x: Tensor) -> Tensor:
    y = F.relu(m.first(x))
    return m.last(m.conv(y) + m.norm(m.other(y)))  # type: ignore[no-any-return]


def _in_place(m: Net, x: Tensor) -> Tensor:
    y = F.max_pool2d(m.first(x), 3, 1, 1)
    z = m.conv(m.other(y))
    z += y
    return m.last(z.relu_())  # type: ignore[no-any-return]


def _read_later(m: Net, x: Tensor) -> Tensor:
    y = m.first(x)
    return m.last(m.conv(m.other(y)) + y) + m.last(y)  # type: ignore[no-any-return]


def _view_read_later(m: Net, x: Tensor) -> Tensor:
    y = m.first(x)
    part = y[:, :, :32]
    return m.last(m.conv(m.other(y)) + y)[:, :, :32] + m.last(part)  # type: ignore[no-any-return]


def _returned(m: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    y = m.first(x)
    return m.last(m.conv(m.other(y)) + y), y


FUSED: dict[str, Body] = {"block": _block, "two convolutions": _two_convolutions, "in place": _in_place}
APART: dict[str, Body] = {
    "read later": _read_later,
    "a view of it is read later": _view_read_later,
    "returned": _returned,
    "its own input": lambda m, x: m.last(m.conv(y := m.first(x)) + y),
    "a view": lambda m, x: m.last(m.conv(m.other(y := m.first(x))) + y.transpose(2, 3)),
    "read before and after": lambda m, x: m.last((z := m.conv(m.other(y := m.first(x)))) + y) + z.mean(),
    "scaled": lambda m, x: m.last(torch.add(m.conv(m.other(y := m.first(x))), y, alpha=2)),
    "broadcast": lambda m, x: m.last(m.conv(m.other(y := m.first(x))) + y.mean((2, 3), keepdim=True)),
    "a constant": lambda m, x: m.last(m.conv(m.other(m.first(x))) + m.norm.weight.reshape(1, 32, 1, 1)),
    "a clip between": lambda m, x: m.last(F.relu(m.conv(m.other(y := m.first(x)))) + y),
    "grouped": lambda m, x: m.last(m.grouped(m.other(y := m.first(x))) + y),
    "small": lambda m, x: m.last(m.conv(m.other(y := m.first(x[:, :, :48, :48]))) + y),
}


def _converted(body: Body, engine: str = "x86", mapping: Any = None) -> tuple[nn.Module, Any, Any]:
    model, x = Net(body).eval(), torch.randn(2, 3, SIDE, SIDE)
    observed = fxquant.prepare_fx(model, mapping or fxquant.get_default_qconfig_mapping(engine), (x,))
    with torch.no_grad():
        observed(x)
    return model, fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)


def _sums(model: Any) -> list[str]:
    return [unit.anchor for unit in model.plan.units if unit.kernel and unit.kernel.convention == "conv_add"]


def _check(model: nn.Module, reference: Any, quantized: Any, *inputs: Tensor) -> None:
    for x in inputs:
        given = x.clone()
        assert not check_agreement(reference, quantized, x).violations
        with torch.no_grad():
            actual, expected = quantized(x), model(x)
        assert torch.equal(x, given)
        for mine, eager in zip(
            *((item if isinstance(item, tuple) else (item,)) for item in (actual, expected)), strict=True
        ):
            assert mine.shape == eager.shape
            assert not eager.numel() or sqnr_db(eager, mine) > 25


@pytest.mark.parametrize("title", FUSED)
def test_one_kernel_that_rounds_once(title: str) -> None:
    model, reference, quantized = _converted(FUSED[title])
    assert len(_sums(quantized)) == 1
    rows = {row.op: row for row in fxquant.explain(quantized).rows if row.op == "add"}
    assert rows["add"].outcome == "folded" and "addition computed by the kernel of" in rows["add"].reason
    sizes = [(1, SIDE), (5, SIDE), (0, SIDE), (2, 64)]
    _check(model, reference, quantized, *(torch.randn(count, 3, side, side) for count, side in sizes))
    assert "fuse_sum" in str(fxquant.graph_diff(model_of(title), quantized))


def model_of(title: str) -> Any:
    """The captured float network."""
    return fxquant.fuse_fx(Net(FUSED[title]).eval(), example_inputs=(torch.randn(2, 3, SIDE, SIDE),))


def test_weights_without_bias_and_with_one_scale() -> None:
    qconfig = fxquant.QConfig(fxquant.HistogramObserver.with_args(), fxquant.default_weight_observer)
    model = Net(_block).eval()
    model.conv = nn.Conv2d(32, 32, 1, bias=False)
    x = torch.randn(2, 3, SIDE, SIDE)
    observed = fxquant.prepare_fx(model, qconfig, (x,))
    with torch.no_grad():
        observed(x)
    quantized = fxquant.convert_fx(observed)
    assert len(_sums(quantized)) == 1
    _check(model, fxquant.convert_to_reference_fx(observed), quantized, torch.randn(3, 3, SIDE, SIDE))


@pytest.mark.parametrize("title", APART)
def test_stays_apart(title: str) -> None:
    model, reference, quantized = _converted(APART[title])
    assert not _sums(quantized)
    _check(model, reference, quantized, torch.randn(3, 3, SIDE, SIDE))


def test_the_last_of_two_convolutions_adds_the_other() -> None:
    assert _sums(_converted(_two_convolutions)[2]) == ["other"]


@pytest.mark.parametrize("engine", ["fbgemm", "qnnpack", "onednn"])
def test_only_onednn_has_the_kernel(engine: str) -> None:
    model, reference, quantized = _converted(_block, engine)
    assert len(_sums(quantized)) == (engine == "onednn")
    _check(model, reference, quantized, torch.randn(3, 3, SIDE, SIDE))


def test_configured_apart() -> None:
    mapping = fxquant.get_default_qconfig_mapping().set_module_name("conv", fxquant.get_default_qconfig("fbgemm"))
    assert not _sums(_converted(_block, mapping=mapping)[2])


def test_operands_of_other_batches_layouts_and_ranks() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 32, 1), nn.Conv2d(3, 32, 3, padding=1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.left(x) + self.right(y)

    model, x = Two().eval(), torch.randn(1, 3, SIDE, SIDE)
    custom = fxquant.PrepareCustomConfig().set_output_quantized_indexes([0])
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (x, x), custom)
    with torch.no_grad():
        observed(x, -x)
        reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
        assert _sums(quantized) == ["right"]
        many = torch.randn(4, 3, SIDE, SIDE)
        for pair in ((x, many), (many, x), (many, many.contiguous(memory_format=torch.channels_last)), (x[0], x[0])):
            made = quantized(*pair)
            assert sqnr_db(model(*pair), made.dequantize()) > 30
            if pair[0].dim() == 4:
                assert not check_agreement(reference, quantized, *pair).violations


def _qparams(model: Any, name: str) -> tuple[float, int]:
    taken = next(module for module in model.modules() if getattr(module, "name", "") == name)
    return float(taken.scale), int(taken.zero_point)


def test_the_other_operand_lies_in_memory_as_it_likes() -> None:
    class Rows(nn.Module):
        """``other`` is float, so that its result lies row by row."""

        def __init__(self) -> None:
            super().__init__()
            self.other, self.first, self.conv = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1)
            self.last = nn.Conv2d(32, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = F.hardswish(self.other(x))
            z: Tensor = self.last(self.conv(self.first(y)) + y)
            return z

    model, x = Rows().eval(), torch.randn(2, 3, SIDE, SIDE)
    mapping = fxquant.get_default_qconfig_mapping().set_module_name("other", None)
    observed = fxquant.prepare_fx(model, mapping, (x,))
    with torch.no_grad():
        observed(x)
        reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
        assert _sums(quantized) == ["conv"]
        for given in (x, x[:1]):
            assert sqnr_db(model(given), quantized(given)) > 30
            assert not check_agreement(reference, quantized, given).violations


def test_quantized_inputs_of_the_user_are_not_overwritten() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 4, 1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.last(self.conv(x) + y)  # type: ignore[no-any-return]

    x = torch.randn(1, 32, SIDE, SIDE)
    custom = fxquant.PrepareCustomConfig().set_input_quantized_indexes([0, 1])
    observed = fxquant.prepare_fx(Added().eval(), fxquant.get_default_qconfig_mapping(), (x, x), custom)
    with torch.no_grad():
        observed(x, x)
        quantized = fxquant.convert_fx(observed)
        given = torch.quantize_per_tensor(x, *_qparams(quantized, "y"), torch.quint8)
        kept = given.int_repr().clone()
        quantized(torch.quantize_per_tensor(x, *_qparams(quantized, "x"), torch.quint8), given)
    assert not _sums(quantized) and torch.equal(given.int_repr(), kept)


def test_copied_and_saved(tmp_path: Any) -> None:
    _, _, quantized = _converted(_block)
    x = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = quantized(x)
        fxquant.save(quantized, tmp_path / "model.fxq")
        torch.save(quantized, tmp_path / "model.pt")
        again = (
            copy.deepcopy(quantized),
            fxquant.load(tmp_path / "model.fxq"),
            torch.load(tmp_path / "model.pt", weights_only=False),
        )
        for model in again:
            assert torch.equal(model(x), expected)


def test_traced_by_torch_jit(tmp_path: Any) -> None:
    """The same kernel, whatever engine torch is set to when the file is loaded."""
    x = torch.randn(2, 3, SIDE, SIDE)
    quantized = _converted(_block)[2]
    assert len(_sums(quantized)) == 1
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit itself
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.jit.trace(quantized, x).save(str(tmp_path / "traced.pt"))
        other = torch.randn(3, 3, SIDE, SIDE)
        assert torch.equal(torch.jit.load(str(tmp_path / "traced.pt"))(other), quantized(other))


def test_trained_networks_round_once_too() -> None:
    x = torch.randn(2, 3, SIDE, SIDE)
    prepared = fxquant.prepare_qat_fx(Net(_two_convolutions).train(), fxquant.get_default_qat_qconfig_mapping(), (x,))
    prepared(x).sum().backward()
    prepared.eval()
    reference, quantized = fxquant.convert_to_reference_fx(prepared), fxquant.convert_fx(prepared)
    with torch.no_grad():
        assert torch.equal(reference(x), prepared(x))
    assert len(_sums(quantized)) == 1 and not check_agreement(reference, quantized, x).violations


class Recurrent(nn.Module):
    """Sums of vectors, which have no batch."""

    def __init__(self) -> None:
        super().__init__()
        self.given, self.hidden = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(8)
        for step in range(4):
            h = torch.tanh(self.given(x[step]) + self.hidden(h))
        return h


def test_sums_of_vectors() -> None:
    model, x = Recurrent().eval(), torch.randn(4, 8)
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (x,))
    observed(x)
    assert sqnr_db(model(x), fxquant.convert_fx(observed)(x)) > 30
    assert fxquant.check_traceable(model, (x,)).ok
