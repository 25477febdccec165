"""Average poolings of a model that is trained quantized by hand are rounded as they will be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import eager


class Pooled(nn.Module):
    """A convolution, relu, largest and mean of windows, and a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = eager.QuantStub(), eager.DeQuantStub()
        self.conv, self.relu, self.largest = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2)
        self.mean, self.flatten, self.linear = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mean(self.largest(self.relu(self.conv(self.quant(x)))))
        return self.dequant(self.linear(self.flatten(x)))


def _trained(x: Tensor) -> Any:
    torch.manual_seed(0)
    model: Any = Pooled().train()
    model.qconfig = fxquant.get_default_qat_qconfig()
    prepared = eager.prepare_qat(model)
    optimizer = torch.optim.SGD(prepared.parameters(), 0.05)
    for _ in range(5):
        loss = F.cross_entropy(prepared(x), torch.arange(len(x)) % 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return prepared.eval()


def test_a_trained_average_is_what_runs() -> None:
    x = torch.randn(16, 3, 12, 12)
    prepared = _trained(x)
    quantized = eager.convert(prepared)
    means: dict[str, Tensor] = {}
    for name, model in (("trained", prepared), ("int8", quantized)):
        model.mean.register_forward_hook(lambda module, inputs, output, name=name: means.__setitem__(name, output))
    with torch.no_grad():
        trained, integers = prepared(x), quantized(x)
    scale = prepared.conv.activation_post_process.scale
    levels = means["trained"] / scale
    assert (levels - levels.round()).abs().max() < 1e-3
    apart = ((means["int8"].dequantize() - means["trained"]) / scale).round().abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() <= 0.24  # twice the rate at which average poolings round otherwise
    step = prepared.linear.activation_post_process.scale
    assert (trained - integers).abs().max() <= 2.01 * step


def test_switched_off_it_computes_in_float() -> None:
    x = torch.randn(16, 3, 12, 12)
    prepared = _trained(x)
    prepared.apply(fxquant.disable_fake_quant)
    with torch.no_grad():
        expected = prepared.conv.layer(x).relu()
        expected = F.adaptive_avg_pool2d(F.max_pool2d(expected, 2), 2).flatten(1)
        torch.testing.assert_close(prepared(x), prepared.linear.layer(expected))


@pytest.mark.parametrize("times", [1, 2])
def test_no_hook_is_left(times: int) -> None:
    prepared = _trained(torch.randn(8, 3, 12, 12))
    for _ in range(times):
        quantized = eager.convert(prepared)
    assert not any(module._forward_hooks for module in quantized.modules())
