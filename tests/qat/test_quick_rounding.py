"""Weights and activations of a training step are rounded in few operations, to the same numbers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from trained_networks import CASES, train

import fxquant
from fxquant.numerics.pair_limit import PairOrder, choose_stretch, limit_levels, limit_pairs, max_pair_sum
from fxquant.observers.rounding import fake_quantize_tensor
from fxquant.passes.trained_weights import TrainedWeight

ORDERS: tuple[PairOrder, ...] = ("channels", "taps_then_channels")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(8, 8, 3, 3), (8, 7, 3, 3), (8, 1, 3, 3), (8, 16), (8, 5)])
def test_levels_are_limited_as_pairs_are(shape: tuple[int, ...], order: PairOrder) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        weight = torch.randn(shape)
        weight = weight.sign() * (0.5 + 0.5 * torch.rand(shape)) if seed % 2 else weight
        scale = weight.flatten(1).abs().amax(1) / 127
        scale = scale * choose_stretch(weight, scale, -127, 127, order)
        _, expected = limit_pairs(weight, scale, -127, 127, order, stretch=torch.ones_like(scale))
        levels = weight * scale.reciprocal().view(-1, *[1] * (weight.dim() - 1))
        integers = limit_levels(levels, order).round().to(torch.int8)
        assert torch.equal(integers, expected)
        assert max_pair_sum(integers, order) <= 128


@pytest.mark.parametrize("limits", [(0, 255), (-127, 127), (0, 65535)])
def test_activations_are_rounded_as_torch_does(limits: tuple[int, int]) -> None:
    torch.manual_seed(0)
    scale, zero_point = torch.tensor([0.037]), torch.tensor([max(limits[0], 7)], dtype=torch.int32)
    x = (torch.randn(4000) * 0.6 * limits[1] * scale).requires_grad_()
    given = x.detach().clone().requires_grad_()
    rounded = fake_quantize_tensor(x, scale, zero_point, *limits)
    expected = torch.fake_quantize_per_tensor_affine(given, scale, zero_point, *limits)
    assert torch.equal(rounded, expected)
    gradient = torch.randn(4000)
    rounded.backward(gradient)
    expected.backward(gradient)
    assert (x.grad != given.grad).sum() <= 4  # within 2^-12 of a step of the edge
    assert fake_quantize_tensor(torch.tensor(0.05), scale, zero_point, *limits).shape == ()


def _slow(prepared: Any) -> Any:
    made = copy.deepcopy(prepared)
    for module in made.modules():
        if isinstance(module, TrainedWeight):
            module._plain = module._learns = False
    return made


@pytest.mark.parametrize("stage", ["learning", "batch norms frozen", "ranges kept too"])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("name", ["residual", "image", "words"])
def test_weights_are_rounded_as_conversion_does(name: str, granularity: str, stage: str) -> None:
    torch.manual_seed(0)
    inputs = CASES[name].inputs()
    default = fxquant.get_default_qat_qconfig()
    weight: Any = default.weight if granularity == "channel" else fxquant.default_fused_wt_fake_quant
    qconfig = fxquant.QConfig(activation=default.activation, weight=weight.with_args(quant_min=-127))
    prepared: Any = fxquant.prepare_qat_fx(CASES[name].build().train(), qconfig, inputs)
    train(prepared, inputs, 2)
    if stage != "learning":
        prepared.apply(fxquant.freeze_bn_stats)
    if stage == "ranges kept too":
        prepared.apply(fxquant.disable_observer)
    slow = _slow(prepared)
    prepared.zero_grad()
    results = [model(*inputs) for model in (prepared, slow)]
    assert any(module._plain for module in prepared.modules() if isinstance(module, TrainedWeight))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)
    for result in results:
        result.square().sum().backward()
    for one, other in zip(prepared.parameters(), slow.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["residual", "image", "words"])
def test_learned_weights_are_rounded_as_conversion_does(name: str, frozen: bool) -> None:
    torch.manual_seed(0)
    inputs = CASES[name].inputs()
    prepared: Any = fxquant.prepare_qat_fx(CASES[name].build().train(), fxquant.get_learnable_qat_qconfig(4), inputs)
    train(prepared, inputs, 2)
    if frozen:
        prepared.apply(fxquant.freeze_bn_stats)
    slow = _slow(prepared)
    prepared.zero_grad()
    results = [model(*inputs) for model in (prepared, slow)]
    assert any(module._learns for module in prepared.modules() if isinstance(module, TrainedWeight))
    assert torch.equal(*results)
    for result in results:
        result.square().sum().backward()
    for one, other in zip(prepared.parameters(), slow.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=1e-6)
