"""Transposed convolutions on every engine: any geometry, the granularity of the weights, output_size, batch norms."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.backends.native.engine import has_avx512
from fxquant.inspect.agreement import check_agreement
from fxquant.ir.quant_plan import KernelChoice, Unit
from fxquant.ir.stages import QuantizedModel, ReferenceModel
from fxquant.numerics.sqnr import sqnr_db

SUPPORTED = torch.backends.quantized.supported_engines
ENGINES = [name for name in ("x86", "fbgemm", "onednn", "qnnpack") if name in SUPPORTED]
KINDS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _convert(model: nn.Module, x: Tensor, engine: str) -> tuple[ReferenceModel, QuantizedModel]:
    """Both forms, which agree on ``x`` and on one example of it."""
    model = model.eval()
    with torch.no_grad():
        observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(engine), (x,))
        assert torch.equal(observed(x), model(x))
        reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
        for batch in (x, x[:1]):
            agreement = check_agreement(reference, quantized, batch)
            assert not agreement.violations, f"{model}\n{agreement}"
        assert quantized(x).shape == model(x).shape
    return reference, quantized


def _kernel(model: Any) -> KernelChoice:
    unit: Unit = next(unit for unit in model.plan.units if unit.op.startswith("conv_transpose"))
    assert unit.outcome == "int8" and unit.kernel is not None
    return unit.kernel


def _random_layers(choose: random.Random) -> tuple[nn.Module, tuple[int, ...]]:
    """A transposed convolution of any geometry that torch takes, perhaps a batch norm, perhaps an activation."""
    while True:
        rank = choose.choice((1, 2, 2, 3))
        groups = choose.choice((1, 1, 2, 4))
        c_in, c_out = (groups * choose.choice((1, 2, 3, 8)) for _ in range(2))
        kernel, stride, dilation, padding, size = (
            tuple(choose.randint(1, most) for _ in range(rank)) for most in (4, 3, 2, 2, 5)
        )
        extra = tuple(choose.randrange(max(pair)) for pair in zip(stride, dilation, strict=True))
        each = zip(size, stride, padding, dilation, kernel, extra, strict=True)
        if min((n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, s, p, d, k, e in each) > 0:
            break
    bias = choose.random() < 0.7
    layers = [KINDS[rank - 1](c_in, c_out, kernel, stride, padding, extra, groups, bias, dilation)]
    if choose.random() < 0.4:
        norm = NORMS[rank - 1](c_out)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
        layers.append(norm)
    if choose.random() < 0.6:
        layers.append(choose.choice((nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.SiLU))())
    return nn.Sequential(*layers), (2, c_in, *size)


@pytest.mark.parametrize("seed", range(25))
def test_any_geometry(seed: int) -> None:
    """An int8 kernel, within a quantum of the reference, on every engine."""
    model, shape = _random_layers(random.Random(seed))
    x = torch.randn(shape)
    for engine in ENGINES:
        _, quantized = _convert(model, x, engine)
        _kernel(quantized)


@pytest.mark.skipif("x86" not in ENGINES, reason="this build of torch has no fbgemm and onednn")
@pytest.mark.parametrize("engine", ["fbgemm"] if has_avx512() else ["x86", "onednn", "fbgemm"])
def test_kernels_that_refuse_per_channel_weights_get_one_scale(engine: str) -> None:
    """As many channels out as in, stride 1: each engine's own kernel; ``explain`` says what it takes."""
    model = nn.Sequential(nn.ConvTranspose2d(8, 8, 3, padding=1))
    reference, quantized = _convert(model, torch.randn(2, 8, 5, 5), engine)
    kernel = _kernel(quantized)
    assert (kernel.function, kernel.weight_granularity) == ("quantized.conv_transpose2d", "tensor")
    assert reference.get_buffer("int8._0.weight_scale").shape == ()
    row = fxquant.explain(quantized).rows[0]
    assert "per-tensor weights" in row.kernel and "one scale" in row.reason


@pytest.mark.skipif("x86" not in ENGINES, reason="this build of torch has no fbgemm and onednn")
@pytest.mark.parametrize("arguments", [{"kernel_size": 4}, {"kernel_size": 3, "stride": 3}], ids=str)
def test_onednns_plain_loops_are_avoided(arguments: dict[str, int]) -> None:
    """Without VNNI they take a thousand times as long as the float operator."""
    _, quantized = _convert(nn.Sequential(nn.ConvTranspose2d(8, 8, **arguments)), torch.randn(2, 8, 4, 4), "onednn")
    assert _kernel(quantized).function == "quantized.conv2d"


@pytest.mark.skipif("qnnpack" not in ENGINES, reason="this build of torch has no qnnpack")
def test_qnnpack_takes_a_scale_per_output_channel() -> None:
    """On axis 1, the output channels' in [C_in, C_out, kH, kW]."""
    reference, quantized = _convert(nn.Sequential(nn.ConvTranspose2d(8, 6, 3)), torch.randn(2, 8, 5, 5), "qnnpack")
    kernel = _kernel(quantized)
    assert (kernel.function, kernel.weight_granularity) == ("quantized.conv_transpose2d", "channel")
    assert reference.get_buffer("int8._0.weight").shape == (8, 6, 3, 3)
    assert reference.get_buffer("int8._0.weight_scale").shape == (6,)


@pytest.mark.parametrize("engine", ENGINES)
def test_strided_ones_run_as_ordinary_convolutions(engine: str) -> None:
    """With a scale per channel of every group, which matters where channels differ in size."""
    layer = nn.ConvTranspose2d(8, 12, 4, 2, padding=1, groups=2)
    layer.weight.data *= torch.logspace(-2, 0, 6).reshape(1, -1, 1, 1)
    model, x = nn.Sequential(layer), torch.randn(3, 8, 6, 6)
    reference, quantized = _convert(model, x, engine)
    assert _kernel(quantized).function == "quantized.conv2d"
    assert reference.get_buffer("int8._0.weight_scale").shape == (12,)
    assert "ordinary convolution" in fxquant.explain(quantized).rows[0].reason
    with torch.no_grad():
        assert sqnr_db(model.eval()(x), quantized(x)) > 35.0


class _ToSize(nn.Module):
    """Down and up again, to the size of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(self.down(x), output_size=x.shape[-2:])
        return y


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("engine", ENGINES)
def test_output_size(engine: str, size: int) -> None:
    """The argument of the module's forward decides between sizes that one stride can give."""
    _, quantized = _convert(_ToSize(), torch.randn(2, 3, size, size), engine)
    assert quantized(torch.randn(2, 3, size, size)).shape == (2, 4, size, size)
    _kernel(quantized)


@pytest.mark.parametrize("engine", ENGINES)
def test_unbatched_and_empty(engine: str) -> None:
    """[C, H, W] as eager takes it, and a batch of none."""
    x = torch.randn(8, 5, 5)
    _, quantized = _convert(nn.Sequential(nn.ConvTranspose2d(8, 6, 2, 2), nn.ReLU()), x.expand(2, 8, 5, 5), engine)
    assert torch.equal(quantized(x), quantized(x[None])[0])
    assert quantized(torch.zeros(0, 8, 5, 5)).shape == (0, 6, 10, 10)


def test_multiply_accumulates() -> None:
    """Every input element is multiplied with each tap of each output channel in its group."""
    x = torch.randn(2, 8, 5, 5)
    _, quantized = _convert(nn.Sequential(nn.ConvTranspose2d(8, 6, 3, 2, groups=2)), x, ENGINES[0])
    assert fxquant.explain(quantized).macs["int8"] == x.numel() * 3 * 9
