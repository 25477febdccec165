"""The mean shift that rounding a weight causes in a layer's output."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.errors import ConfigError


def weight_error_bias(
    weight_float: Tensor,
    weight_dequantized: Tensor,
    input_mean: Tensor,
    groups: int = 1,
    transposed: bool = False,
    stride_product: int = 1,
) -> Tensor:
    """Expected change of each output channel, ``sum of (W_q - W) * E[x_c]``, to be subtracted from the bias.

    Borders are left out of account: outputs see all taps, or 1 / ``stride_product`` of them when transposed.

    Args:
        weight_float: [C_out, C_in/groups, *k] float, or [C_in, C_out/groups, *k] when ``transposed``.
        weight_dequantized: what the integers stand for, of ``weight_float``'s shape.
        input_mean: [C_in] float, the mean of each input channel.
        groups: of the convolution.
        transposed: whether the weight is a transposed convolution's.
        stride_product: the product of a transposed convolution's strides; 1 for everything else.

    Returns:
        [C_out], in ``weight_float``'s dtype, computed in float64.

    Raises:
        ConfigError: the weight takes another number of input channels than ``input_mean`` has.

    Source: Nagel et al. 2019, https://arxiv.org/abs/1906.04721, equations 16 and 17 (bias correction).
    """
    error = weight_dequantized.detach().to(torch.float64) - weight_float.detach().to(torch.float64)
    error = error.flatten(2).sum(2) if error.ndim > 2 else error
    channels = error.shape[0] if transposed else error.shape[1] * groups
    if input_mean.numel() != channels:
        raise ConfigError(
            f"the weight takes {channels} input channels, and the input has {input_mean.numel()} means",
            remedy="pass one mean per input channel, and the layer's groups",
        )
    mean = input_mean.detach().to(device=error.device, dtype=torch.float64).reshape(groups, -1)
    axes = "gio,gi->go" if transposed else "goi,gi->go"
    shift = torch.einsum(axes, error.reshape(groups, -1, error.shape[1]), mean) / stride_product
    return shift.reshape(-1).to(weight_float.dtype)
