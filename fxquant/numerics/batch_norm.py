"""Folding a batch norm into the weight and bias of the convolution or linear before it, or after it."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.errors import ConfigError
from fxquant.numerics.conv_geometry import per_input_row


def fold_batch_norm(
    weight: Tensor,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    channel_axis: int = 0,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer with the batch norm after it, differentiable in all of them.

    ``weight * f`` and ``(bias - mean) * f + beta`` with ``f = gamma * rsqrt(var + eps)``.

    Args:
        weight: [C_out, C_in/groups, *k] float, or [C_in, C_out/groups, *k] when ``channel_axis`` is 1.
        bias: [C_out] float, or None for zeros.
        running_mean: [C_out] float.
        running_var: [C_out] float, not negative.
        gamma: [C_out] float, or None for ones.
        beta: [C_out] float, or None for zeros.
        eps: what the batch norm adds to the variance.
        channel_axis: 0 for convolution and linear, 1 for transposed convolution.
        groups: of a transposed convolution; of no consequence to others.

    Returns:
        ``(weight, bias)``: of ``weight``'s shape, and [C_out].

    Raises:
        ConfigError: the weight has a number of output channels other than the batch norm's.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, equation 14.
    """
    factor = torch.rsqrt(running_var + eps) * (1.0 if gamma is None else gamma)
    centred = -running_mean if bias is None else bias - running_mean
    folded_bias = centred * factor if beta is None else centred * factor + beta
    folded_weight = weight * _spread(factor, weight, channel_axis, groups).to(weight.dtype)
    return folded_weight, folded_bias.to(weight.dtype)


def fold_batch_norm_before(
    weight: Tensor,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer with the batch norm before it, differentiable in all of them.

    ``weight * f`` and ``bias + sum over taps and input channels of weight * (beta - mean * f)`` with
    ``f = gamma * rsqrt(var + eps)``, both per input channel. Exact where the layer reads no padding.

    Args:
        weight: [C_out, C_in/groups, *k] float.
        bias: [C_out] float, or None for zeros.
        running_mean: [C_in] float.
        running_var: [C_in] float, not negative.
        gamma: [C_in] float, or None for ones.
        beta: [C_in] float, or None for zeros.
        eps: what the batch norm adds to the variance.
        groups: of the convolution.

    Returns:
        ``(weight, bias)``: of ``weight``'s shape, and [C_out].

    Raises:
        ConfigError: the weight has a number of input channels other than the batch norm's.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, equation 14, with the linear map on the other side.
    """
    factor = torch.rsqrt(running_var + eps) * (1.0 if gamma is None else gamma)
    shift = -running_mean * factor if beta is None else beta - running_mean * factor
    if weight.shape[1] * groups != factor.numel():
        raise ConfigError(
            f"a batch norm of {factor.numel()} channels cannot be folded into a weight of shape "
            f"{tuple(weight.shape)} with {weight.shape[1] * groups} input channels (groups={groups})",
            remedy="check num_features of the batch norm, and groups of the convolution",
        )
    rows = weight.reshape(groups, -1, *weight.shape[1:])
    taps = [1] * (weight.ndim - 2)
    added = (rows * shift.reshape(groups, 1, -1, *taps)).flatten(2).sum(2).reshape(-1)
    folded = (rows * factor.reshape(groups, 1, -1, *taps)).reshape(weight.shape)
    return folded.to(weight.dtype), (added if bias is None else bias + added).to(weight.dtype)


def _spread(factor: Tensor, weight: Tensor, channel_axis: int, groups: int) -> Tensor:
    """Shapes one factor per output channel, [C_out], so that it multiplies the weight."""
    channels = weight.shape[0] if channel_axis == 0 else weight.shape[1] * groups
    if channels != factor.numel():
        raise ConfigError(
            f"a batch norm of {factor.numel()} channels cannot be folded into a weight of shape "
            f"{tuple(weight.shape)} with {channels} output channels "
            f"(channel_axis={channel_axis}, groups={groups})",
            remedy="check num_features of the batch norm, and groups of the convolution",
        )
    if channel_axis == 1:
        return per_input_row(factor, weight.shape)
    return factor.reshape(-1, *[1] * (weight.ndim - 1))
