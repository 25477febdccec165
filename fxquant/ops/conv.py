"""Convolutions and linear: the operators with weights."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F

from fxquant.ops.opdef import Example, Kernel, OpDef, Requantize

_CONV_SIGNATURE = "input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1"
_TRANSPOSED_SIGNATURE = "input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1"


def _conv_macs(weight: tuple[int, ...], output: tuple[int, ...]) -> int:
    """Every output element sums over C_in/groups x kernel taps (weight: [C_out, C_in/groups, *kernel])."""
    return prod(output) * prod(weight[1:])


def _transposed_macs(weight: tuple[int, ...], given: tuple[int, ...]) -> int:
    """Every input element goes to C_out/groups x kernel taps (weight: [C_in, C_out/groups, *kernel])."""
    return prod(given) * prod(weight[1:])


def _linear_macs(weight: tuple[int, ...], output: tuple[int, ...]) -> int:
    """Every output element sums over in_features (weight: [out_features, in_features])."""
    return prod(output) * weight[-1]


def _transposed_examples(rank: int) -> tuple[Example, ...]:
    """Strided with output padding, grouped and dilated, and as many channels in as out."""
    return (
        Example(((2, 4, *(4,) * rank),), {"stride": 2, "output_padding": 1}),
        Example(((2, 4, *(4,) * rank),), {"groups": 2, "dilation": 2}),
        Example(((2, 6, *(4,) * rank),), {"stride": 2}),
    )


CONV1D = OpDef(
    name="conv1d",
    target=torch.conv1d,
    signature=_CONV_SIGNATURE,
    weights=("weight", "bias"),
    output=Requantize(),
    kernels={
        "native": Kernel("conv", "quantized.conv1d"),
        "native.dynamic": Kernel("conv_dynamic", "onednn.qconv_pointwise"),
    },
    macs=_conv_macs,
    examples=(Example(((2, 4, 16),)),),
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.conv1d.html",
)

CONV2D = OpDef(
    name="conv2d",
    target=torch.conv2d,
    signature=_CONV_SIGNATURE,
    weights=("weight", "bias"),
    output=Requantize(),
    kernels={
        "native": Kernel("conv", "quantized.conv2d"),
        "native.dynamic": Kernel("conv_dynamic", "onednn.qconv_pointwise"),
    },
    macs=_conv_macs,
    examples=(
        Example(((2, 4, 9, 9),)),
        Example(((2, 4, 9, 9),), {"padding": "same", "dilation": 2}),
        Example(((2, 6, 9, 9),), {"groups": 6, "stride": 2}),
    ),
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.conv2d.html",
)

CONV3D = OpDef(
    name="conv3d",
    target=torch.conv3d,
    signature=_CONV_SIGNATURE,
    weights=("weight", "bias"),
    output=Requantize(),
    kernels={
        "native": Kernel("conv", "quantized.conv3d"),
        "native.dynamic": Kernel("conv_dynamic", "onednn.qconv_pointwise"),
    },
    macs=_conv_macs,
    examples=(Example(((2, 4, 5, 6, 6),)),),
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.conv3d.html",
)

CONV_TRANSPOSE = tuple(
    OpDef(
        name=f"conv_transpose{rank}d",
        target=target,
        signature=_TRANSPOSED_SIGNATURE,
        weights=("weight", "bias"),
        output=Requantize(),
        kernels={"native": Kernel("conv_transpose", f"quantized.conv_transpose{rank}d")},
        macs=_transposed_macs,
        macs_over="input",
        examples=(Example(((2, 4, *(5,) * rank),)), *_transposed_examples(rank)),
        source=f"https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.conv_transpose{rank}d.html",
    )
    for rank, target in ((1, torch.conv_transpose1d), (2, torch.conv_transpose2d), (3, torch.conv_transpose3d))
)

LINEAR = OpDef(
    name="linear",
    target=F.linear,
    signature="input, weight, bias=None",
    weights=("weight", "bias"),
    output=Requantize(),
    kernels={
        "native": Kernel("linear", "quantized.linear"),
        "native.dynamic": Kernel("linear_dynamic", "quantized.linear_dynamic"),
        "native.float16": Kernel("linear_float16", "quantized.linear_dynamic_fp16"),
    },
    macs=_linear_macs,
    examples=(Example(((3, 8),)), Example(((2, 5, 8),))),
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.linear.html",
)

ROWS = (CONV1D, CONV2D, CONV3D, *CONV_TRANSPOSE, LINEAR)
