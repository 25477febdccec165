"""Four bits that cost accuracy after training, and how much of it training quantized gives back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxquant
from fxquant.demo.digits import BATCH_SIZE, TRAIN_COUNT, DigitsNet, accuracy, calibration_batches, load_digits

pytest.importorskip("sklearn")

LARGEST = 7


def separable(channels: int, outputs: int, stride: int) -> nn.Sequential:
    """A depthwise and a pointwise convolution, as in MobileNet."""
    depthwise = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
    return nn.Sequential(depthwise, nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, outputs, 1, bias=False))


def narrow_digits() -> nn.Module:
    """The demo's network with 8 channels and separable convolutions."""
    model = DigitsNet(8)
    for block in (model.block1, model.block2, model.block3):
        for name in ("conv1", "conv2"):
            given = getattr(block, name)
            setattr(block, name, separable(given.in_channels, given.out_channels, given.stride))
    return model


def train(model: nn.Module, rate: float, epochs: int, after_step: Callable[[], None] = lambda: None) -> None:
    data, generator = load_digits(), torch.Generator().manual_seed(0)
    steps = epochs * (TRAIN_COUNT // BATCH_SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        order = torch.randperm(TRAIN_COUNT, generator=generator)
        for batch in order[: TRAIN_COUNT // BATCH_SIZE * BATCH_SIZE].view(-1, BATCH_SIZE):
            loss = F.cross_entropy(model(data.train_images[batch]), data.train_labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            after_step()


def test_training_gives_back_what_four_bits_and_one_scale_cost() -> None:
    torch.manual_seed(0)
    model = narrow_digits()
    train(model.train(), 1e-2, 10)
    model.eval()
    limits: dict[str, Any] = {"dtype": torch.int8, "quant_min": -LARGEST, "quant_max": LARGEST}
    weight = fxquant.MinMaxObserver.with_args(qscheme=torch.per_tensor_symmetric, **limits)
    after = fxquant.QConfig(activation=fxquant.get_default_qconfig().activation, weight=weight)
    observed = fxquant.prepare_fx(model, after, (calibration_batches()[0],))
    for images in calibration_batches():
        observed(images)

    trained = fxquant.default_fused_wt_fake_quant.with_args(**limits)
    during = fxquant.QConfig(activation=fxquant.get_default_qat_qconfig().activation, weight=trained)
    prepared = fxquant.prepare_qat_fx(model, during, (calibration_batches()[0],), start_from=observed).train()
    frozen = 12 * (TRAIN_COUNT // BATCH_SIZE)
    schedule = fxquant.QATSchedule(prepared, observer_steps=frozen, batch_norm_steps=frozen)
    train(prepared, 5e-3, 16, schedule.step)
    prepared.eval()

    floats, calibrated = accuracy(model), accuracy(fxquant.convert_fx(observed))
    quantized = fxquant.convert_fx(prepared)
    assert floats - calibrated >= 0.01, (floats, calibrated)
    assert accuracy(quantized) - calibrated >= 0.8 * (floats - calibrated), (floats, calibrated, accuracy(quantized))
    assert abs(accuracy(quantized) - accuracy(prepared)) <= 0.004
