"""Activations of any magnitude: small ones are signal, what rounding leaves of a difference is not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.inspect.agreement import check_agreement
from fxquant.numerics.sqnr import sqnr_db

ENGINES = tuple(
    name for name in ("x86", "fbgemm", "onednn", "qnnpack") if name in torch.backends.quantized.supported_engines
)


class _Fades(nn.Module):
    """As an untrained network does: every layer makes the numbers smaller, and a gate smaller again."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(depth))
        self.gate, self.head = nn.Conv2d(8, 8, 1, bias=False), nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu6(0.01 * layer(x)) + 0.1 * x
            x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


@pytest.mark.parametrize("engine", ENGINES)
@torch.no_grad()
def test_small_numbers_are_kept(engine: str) -> None:
    torch.manual_seed(0)
    model, x = _Fades(8).eval(), torch.randn(4, 8, 8, 8)
    assert model(x).abs().max() < 1e-8
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(engine), (x,), backend_config=engine)
    observed(x)
    reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
    assert sqnr_db(model(x), quantized(x)) > 20
    assert not check_agreement(reference, quantized, x).violations


class _ComesToNothing(nn.Module):
    """The mean of normalized numbers: what is left of it is rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 16), nn.Linear(1, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(F.layer_norm(self.first(x), (16,)).mean(-1, keepdim=True))
        return y


@torch.no_grad()
def test_rounding_noise_is_no_signal() -> None:
    torch.manual_seed(0)
    model, x = _ComesToNothing().eval(), torch.randn(64, 16)
    quantized = fxquant.quantize(model, [x], backend="x86", progress=False)
    scales = {key: float(value) for key, value in quantized.state_dict().items() if key.endswith("mean.scale")}
    assert list(scales.values()) == [1.0]
    assert sqnr_db(model(x), quantized(x)) > 30


@torch.no_grad()
def test_observers_of_the_user_keep_their_smallest_scale() -> None:
    x = 1e-6 * torch.rand(8, 4)
    activation = fxquant.HistogramObserver.with_args(reduce_range=False)
    mapping = fxquant.QConfigMapping().set_global(
        fxquant.QConfig(activation=activation, weight=fxquant.default_per_channel_weight_observer)
    )
    observed = fxquant.prepare_fx(nn.Sequential(nn.Linear(4, 4)).eval(), mapping, (x,))
    observed(x)
    assert float(fxquant.convert_to_reference_fx(observed).state_dict()["int8_ranges.input_1.scale"]) == 1.0
