"""What torch.ao is known to get wrong, each against the reference.

Agreement is per unit on identical integers: at most a quantum, at twice the usual rate of its kind. Levels in dB are
those of 8 bits: a conversion that were wrong would be far below them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.inspect.agreement import check_agreement
from fxquant.ir.stages import ObservedModel, QuantizedModel, StageModule
from fxquant.numerics.sqnr import sqnr_db

SUPPORTED = torch.backends.quantized.supported_engines
ENGINES = [name for name in ("x86", "fbgemm", "onednn", "qnnpack") if name in SUPPORTED]
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
EIGHT_BITS_DB = 30.0


def _observe(model: nn.Module, x: Tensor, engine: str = "x86") -> ObservedModel:
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(engine), (x,))
    observed(x)
    return observed


def _assert_right(model: nn.Module, x: Tensor, engine: str = "x86") -> QuantizedModel:
    """Every unit agrees with the reference, at this batch size and at one, and the output is 8 bits from float."""
    model = model.eval()
    with torch.no_grad():
        observed = _observe(model, x, engine)
        reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
        for batch in (x, x[:1]):
            agreement = check_agreement(reference, quantized, batch)
            assert not agreement.violations, f"\n{agreement}"
        assert sqnr_db(model(x), quantized(x)) > EIGHT_BITS_DB
    return quantized


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [(16, 16), (16, 8), (8, 24)], ids=str)
def test_transposed_convolution_of_2x2(channels: tuple[int, int], stride: int, engine: str) -> None:
    """fbgemm's kernel is wrong for strides or batches above 1, onednn's for other channels out than in."""
    model = nn.Sequential(nn.ConvTranspose2d(*channels, 2, stride))
    quantized = _assert_right(model, torch.randn(3, channels[0], 6, 6), engine)
    assert [row.outcome for row in fxquant.explain(quantized).rows] == ["int8"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("slope", [0.25, 1.0, -0.5])
@pytest.mark.parametrize("count", [1, 6], ids=["shared", "per channel"])
def test_prelu(count: int, slope: float, engine: str) -> None:
    """Positive values keep their size whatever the slope's."""
    layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(count, init=slope), nn.Conv2d(6, 4, 1))
    _assert_right(layers, torch.randn(3, 3, 8, 8), engine)


@pytest.mark.parametrize("engine", [name for name in ("x86", "fbgemm", "onednn") if name in SUPPORTED])
@pytest.mark.parametrize(
    ("layer", "sides"),
    [
        (nn.Conv1d(16, 16, 8, padding=4), (20,)),
        (nn.Conv1d(32, 32, 16, padding=8, groups=2), (50,)),
        (nn.Conv2d(48, 48, 3, padding=1, groups=2), (7, 7)),
        (nn.Conv2d(8, 384, 3, padding=1, groups=8), (14, 14)),
        (nn.Conv2d(24, 16, (1, 8), padding=(0, 4)), (8, 8)),
        (nn.Conv2d(16, 64, (3, 1), padding=(1, 0)), (14, 56)),
        (nn.Conv2d(96, 8, 4, dilation=2, padding=3), (20, 56)),
        (nn.Conv1d(16, 16, 24, padding=12, groups=16), (49,)),
        (nn.Conv2d(32, 32, 3, padding=1), (7, 7)),
        (nn.Conv2d(32, 32, 5, padding=2, groups=32), (9, 9)),
    ],
    ids=str,
)
def test_convolutions_of_all_geometries(layer: nn.Module, sides: tuple[int, ...], engine: str) -> None:
    """onednn's are wrong for some on CPUs with AVX-512, at some sizes; one of them never returns."""
    channels = int(layer.in_channels)  # type: ignore[arg-type]
    model, x = nn.Sequential(layer).eval(), torch.randn(2, channels, *sides)
    observed = _observe(model, x, engine)
    reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
    for size in (sides, tuple(3 * side + 1 for side in sides)):
        agreement = check_agreement(reference, quantized, torch.randn(2, channels, *size))
        assert not agreement.violations, f"\n{agreement}"


SATURATION = """
import sys, torch, fxquant
from torch import nn
from fxquant.inspect.agreement import check_agreement

for engine in sys.argv[1:]:
    torch.manual_seed(0)
    for squash in (nn.Tanh(), nn.Sigmoid(), nn.Identity()):
        for layer in (nn.Conv2d(16, 8, 3), nn.Linear(16, 8)):
            layer.weight.data = layer.weight.data.abs() + 0.5  # neighbouring products add up
            model = nn.Sequential(squash, layer).eval()
            x = torch.rand(2, 16, 6, 6) + 3 if layer.weight.dim() == 4 else torch.rand(9, 16) + 3
            observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(engine), (x,))
            observed(x)
            reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
            agreement = check_agreement(reference, quantized, x)
            assert not agreement.violations, f"{engine}: {agreement}"
    print(engine)
"""


def test_large_activations_without_vnni() -> None:
    """tanh and sigmoid fill 0..255, and so do onednn's defaults: neighbouring products must fit int16 all the same."""
    engines = [name for name in ("x86", "onednn") if name in ENGINES]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SATURATION, *engines],
        capture_output=True,
        text=True,
        env={**os.environ, **AVX2},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == engines


class _Twice(nn.Module):
    """One convolution called twice, with a relu between or without, and a batch norm after the second call."""

    def __init__(self, relu: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), relu

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        y = F.relu(y) if self.relu else y
        z: Tensor = self.norm(self.conv(y))
        return z


def _twice(relu: bool) -> nn.Module:
    model = _Twice(relu).eval()
    model.norm.running_mean.normal_()  # type: ignore[union-attr,operator]
    model.norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr,operator]
    return model


@pytest.mark.parametrize("relu", [False, True])
def test_one_module_called_twice(relu: bool) -> None:
    """Each call has ranges of its own, and a batch norm after one of them leaves the other alone."""
    quantized = _assert_right(_twice(relu), torch.randn(3, 4, 8, 8))
    assert sum(row.op == "conv2d" and row.outcome == "int8" for row in fxquant.explain(quantized).rows) == 2


@pytest.mark.parametrize("relu", [False, True])
def test_one_module_called_twice_fused_in_float(relu: bool) -> None:
    """``fuse_fx`` alone computes what the float model computes."""
    model, x = _twice(relu), torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(fxquant.fuse_fx(model, example_inputs=(x,))(x), model(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(fxquant.fuse_fx(model)(x), model(x), rtol=1e-5, atol=1e-5)


class _Scaled(nn.Module):
    """A tensor times a number, between linears."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.first, self.last, self.number = nn.Linear(8, 8), nn.Linear(8, 4), number

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.first(x) * self.number + self.number)
        return y


@pytest.mark.parametrize("number", [1000.0, -300.0, 1e-3])
def test_a_tensor_times_a_large_number(number: float) -> None:
    """The product has a range of its own."""
    _assert_right(_Scaled(number), torch.randn(64, 8))


class _Holder(nn.Module):
    """Holds the weights of a functional."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(6, 3, 3, 3)), nn.Parameter(torch.randn(6))


class _Functional(nn.Module):
    """A functional convolution with weights in a submodule, and a linear with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.weight = _Holder(), nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(F.conv2d(x, self.inner.weight, self.inner.bias)).mean((2, 3)), self.weight)


def _itself(observed: ObservedModel) -> ObservedModel:
    return observed


@pytest.mark.parametrize("convert", [_itself, fxquant.convert_to_reference_fx, fxquant.convert_fx])
def test_weights_in_a_submodule_survive_a_state_dict(convert: Callable[[ObservedModel], StageModule]) -> None:
    """A strict load of one model's state into another's makes it compute the same."""
    x = torch.randn(4, 3, 8, 8)
    source, target = (convert(_observe(_Functional().eval(), x)) for _ in range(2))
    with torch.no_grad():
        assert not torch.equal(source(x), target(x))
        target.load_state_dict(source.state_dict(), strict=True)
        assert torch.equal(source(x), target(x))
