"""The README's walk-through: a wrong scale is planted in one layer of EfficientNet-Lite0, found, and left float.

Run it as ``python docs/examples/find_the_error.py``; it takes some minutes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fxquant
from fxquant.demo.efficientnet import crops, load_efficientnet_lite0, predict
from fxquant.numerics.sqnr import sqnr_db

SHOWN = 3
"""Layers, of each list."""


def judge(model: nn.Module, quantized: nn.Module, test: list[Tensor]) -> str:
    """How far a quantized model is from float on unseen crops."""
    images = torch.cat(test)
    return f"{sqnr_db(predict(model, images), predict(quantized, images)):.1f} dB"


def main() -> None:
    """Print what the README shows."""
    torch.set_num_threads(1)
    model = load_efficientnet_lite0()
    calibration, test = list(crops(32).split(8)), list(crops(32, split="test").split(8))
    observer = fxquant.FixedQParamsObserver.with_args(scale=0.002, zero_point=128, quant_min=0, quant_max=255)
    broken = fxquant.QConfig(activation=observer, weight=fxquant.default_per_channel_weight_observer)
    mapping = fxquant.get_default_qconfig_mapping("x86").set_module_name("_blocks.5._expand_conv", broken)
    quantized = fxquant.quantize(model, calibration, qconfig_mapping=mapping, backend="x86", progress=False)
    print(judge(model, quantized, test))
    print("\n".join(str(fxquant.compare(model, quantized, test).summary()).splitlines()[:SHOWN]))
    found = fxquant.sensitivity(model, calibration[:1], qconfig_mapping=mapping, backend="x86")
    print(found)
    mapping = found.qconfig_mapping
    fixed = fxquant.quantize(model, calibration, qconfig_mapping=mapping, backend="x86", progress=False)
    print(judge(model, fixed, test))


if __name__ == "__main__":
    main()
