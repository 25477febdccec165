"""A verified model is handed over as if it had never run: onednn's kernels are fast for their first shape only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.backends.native.kernels.weighted import WeightedKernel


@pytest.mark.parametrize("verify", [True, False])
def test_no_kernel_has_run_since_it_was_packed(verify: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pack, call, has_run = WeightedKernel.pack, WeightedKernel.__call__, {}

    def packing(self: WeightedKernel) -> None:
        has_run[id(self)] = False
        pack(self)

    def calling(self: WeightedKernel, *args: Tensor) -> Tensor:
        has_run[id(self)] = True
        result: Tensor = call(self, *args)
        return result

    monkeypatch.setattr(WeightedKernel, "pack", packing)
    monkeypatch.setattr(WeightedKernel, "__call__", calling)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4)).eval()
    x = torch.randn(8, 3, 5, 5)
    quantized = fxquant.quantize(model, [x], verify=verify, progress=False)
    kernels = [module for module in quantized.modules() if isinstance(module, WeightedKernel)]
    assert len(kernels) == 2 and not any(has_run[id(kernel)] for kernel in kernels)
    quantized(x)
    assert all(has_run[id(kernel)] for kernel in kernels)
