"""Folded layers against the layer followed by its batch norm, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fxquant.errors import ConfigError
from fxquant.numerics import fold_batch_norm, fold_batch_norm_before


def trained_bn(channels: int) -> nn.BatchNorm2d:
    bn = nn.BatchNorm2d(channels).double().eval()
    for tensor in (bn.weight, bn.bias, bn.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(bn.running_var, 0.1, 2.0)
    return bn


CASES: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (nn.Conv2d, {"in_channels": 6, "out_channels": 4, "kernel_size": 3}),
    (nn.Conv2d, {"in_channels": 6, "out_channels": 4, "kernel_size": 3, "groups": 2, "bias": False}),
    (nn.Conv2d, {"in_channels": 6, "out_channels": 6, "kernel_size": 3, "groups": 6}),
    (nn.ConvTranspose2d, {"in_channels": 6, "out_channels": 4, "kernel_size": 3, "stride": 2}),
    (nn.ConvTranspose2d, {"in_channels": 6, "out_channels": 4, "kernel_size": 2, "groups": 2, "bias": False}),
]


@pytest.mark.parametrize(("kind", "arguments"), CASES)
def test_folding_keeps_the_output(kind: type[nn.Module], arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer, bn = kind(**arguments).double(), trained_bn(4 if arguments["out_channels"] == 4 else 6)
    x = torch.randn(2, 6, 7, 7, dtype=torch.float64)
    expected = bn(layer(x))
    axis = 1 if kind is nn.ConvTranspose2d else 0
    weight, bias = fold_batch_norm(
        layer.weight,
        layer.bias,
        bn.running_mean,
        bn.running_var,
        bn.weight,
        bn.bias,
        bn.eps,
        axis,
        layer.groups,
    )
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_folding_from_before_keeps_the_output(groups: int) -> None:
    """Exact without padding: every output reads every tap."""
    torch.manual_seed(0)
    layer, bn = nn.Conv2d(6, 4, 3, groups=groups).double(), trained_bn(6)
    x = torch.randn(2, 6, 7, 7, dtype=torch.float64)
    expected = layer(bn(x))
    terms = (bn.running_mean, bn.running_var, bn.weight, bn.bias, bn.eps)
    weight, bias = fold_batch_norm_before(layer.weight, layer.bias, *terms, groups)
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_folding_from_before_refuses_other_channels() -> None:
    with pytest.raises(ConfigError, match="4 channels"):
        fold_batch_norm_before(torch.ones(2, 3), None, torch.ones(4), torch.ones(4), None, None, 1.0)


def test_a_batch_norm_without_affine_parameters() -> None:
    weight, bias = fold_batch_norm(
        torch.ones(2, 3), None, torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0]), None, None, 1.0
    )
    assert torch.equal(weight[:, 0], torch.tensor([0.5, 1.0]))
    assert torch.equal(bias, torch.tensor([-0.5, -2.0]))


def test_gradients_reach_weight_bias_gamma_and_beta() -> None:
    leaves = [torch.randn(shape, requires_grad=True) for shape in ((3, 2), (3,), (3,), (3,))]
    weight, bias, gamma, beta = leaves
    folded = fold_batch_norm(weight, bias, torch.zeros(3), torch.ones(3), gamma, beta, 1e-5)
    (folded[0].sum() + folded[1].sum()).backward()
    assert all(leaf.grad is not None and (leaf.grad != 0).all() for leaf in leaves)


def test_a_batch_norm_of_other_channels_is_refused() -> None:
    with pytest.raises(ConfigError, match="5 channels"):
        fold_batch_norm(torch.ones(4, 2), None, torch.zeros(5), torch.ones(5), None, None, 1e-5)
