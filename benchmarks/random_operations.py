"""The operations random networks are made of."""

from __future__ import annotations

import operator
import random

import torch
import torch.nn.functional as F
from random_arithmetic import ARITHMETIC
from random_movement import MOVEMENT
from random_operation import (
    Operation,
    any_value,
    image,
    layer,
    method,
    nothing,
    one_of,
    plain,
    same_shape,
    same_shape_apart,
)
from torch import Tensor, nn

# -- layers ------------------------------------------------------------------------------------------


def _conv(drawn: random.Random, value: Tensor) -> nn.Module:
    channels = value.shape[1]
    groups = drawn.choice([g for g in (1, 1, 2, channels) if channels % g == 0])
    kernel = drawn.choice((1, 3, 3, (3, 1)))
    padding = drawn.choice((0, 1)) if kernel == 3 else 0
    out = groups * drawn.choice((1, 2)) if groups > 1 else drawn.choice((3, 4, 8))
    bias, stride, dilation = drawn.random() < 0.7, drawn.choice((1, 1, 2)), drawn.choice((1, 1, 2))
    return nn.Conv2d(channels, out, kernel, stride, padding, dilation, groups, bias)


def _conv_bn(drawn: random.Random, value: Tensor) -> nn.Module:
    out = drawn.choice((4, 8))
    norm = nn.BatchNorm2d(out)
    norm.running_mean.normal_()  # type: ignore[union-attr]
    norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    clip = drawn.choice((nn.ReLU, nn.ReLU6, nn.Identity, nn.Hardswish))
    return nn.Sequential(nn.Conv2d(value.shape[1], out, 3, padding=1, bias=drawn.random() < 0.5), norm, clip())


def _linear(drawn: random.Random, value: Tensor) -> nn.Module:
    return nn.Linear(value.shape[-1], drawn.choice((4, 6, 8)), bias=drawn.random() < 0.7)


def _batch_norm(drawn: random.Random, value: Tensor) -> nn.Module:
    norm = nn.BatchNorm2d(value.shape[1])
    norm.running_mean.normal_()  # type: ignore[union-attr]
    norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    return norm


def _table(drawn: random.Random, value: Tensor) -> nn.Module:
    return nn.Embedding(9, drawn.choice((3, 4)))


def _rows(x: Tensor) -> Tensor:
    """Positions in a table, of the first channel or column."""
    return x.flatten(1)[:, :3].sigmoid().mul(8).long()


def _recurrent(drawn: random.Random, value: Tensor) -> nn.Module:
    kind = drawn.choice((nn.LSTM, nn.GRU, nn.RNN))
    both, layers = drawn.random() < 0.3, drawn.choice((1, 1, 2))
    return kind(value.shape[-1], drawn.choice((3, 4)), layers, batch_first=drawn.random() < 0.5, bidirectional=both)


def _sequence(first: Tensor, value: Tensor) -> bool:
    """Fits a batch of two sequences."""
    return value.dim() == 3 and value.shape[0] == 2 and value.shape[1] > 0


_LAYERS = (
    Operation("recurrent", lambda module, x: module(x)[0], _sequence, nothing, _recurrent, weight=3.0),
    layer("conv1d", lambda drawn, value: nn.Conv1d(value.shape[1], 4, 1), _sequence),
    Operation("embedding", lambda module, x: module(_rows(x)), settings=nothing, fits=any_value, module=_table),
    layer("conv", _conv, image, 5.0),
    layer("conv_bn", _conv_bn, image, 4.0),
    layer("linear", _linear, weight=3.0),
    layer("batch_norm", _batch_norm, image),
    layer("layer_norm", lambda drawn, value: nn.LayerNorm(value.shape[-1])),
    layer("dropout", lambda drawn, value: nn.Dropout(0.5)),
    layer("identity", lambda drawn, value: nn.Identity()),
    layer("relu_module", lambda drawn, value: nn.ReLU()),
    layer("prelu", lambda drawn, value: nn.PReLU()),
)

# -- elementwise -------------------------------------------------------------------------------------

_UNARY = (
    *(plain(f.__name__, f) for f in (F.relu, torch.relu, F.relu6, F.hardtanh, F.hardswish, F.hardsigmoid, F.elu)),
    *(plain(f.__name__, f) for f in (torch.sigmoid, torch.tanh, F.gelu, F.silu, torch.abs, torch.neg)),
    plain("leaky_relu", F.leaky_relu, settings=one_of(negative_slope=(0.01, 0.2))),
    plain("clamp", torch.clamp, settings=one_of(min=(-0.5, 0.0, None), max=(0.3, 1.0))),
    method("clamp", settings=one_of(min=(-1.0, 0.2))),
    plain("softmax", F.softmax, settings=one_of(dim=(-1,))),
    plain("erf", torch.erf),
    plain("sin", torch.sin),
    plain("cumsum", torch.cumsum, settings=one_of(dim=(-1,))),
    plain("own_swish", lambda x: x * torch.sigmoid(x)),
)

_IN_PLACE = (
    method("relu_", in_place=True),
    method("clamp_", settings=one_of(min=(-0.5,), max=(0.5,)), in_place=True),
    plain("relu6_inplace", lambda x: F.relu6(x, inplace=True), in_place=True),
    plain("iadd", operator.iadd, same_shape_apart, arity=2, in_place=True),
    plain("imul", operator.imul, same_shape_apart, arity=2, in_place=True, weight=0.5),
)

_BINARY = (
    plain("add", operator.add, same_shape, arity=2, weight=3.0),
    plain("add_relu", lambda x, y: F.relu(torch.add(x, y)), same_shape, arity=2, weight=2.0),
    plain("sub", torch.sub, same_shape, arity=2),
    plain("mul", operator.mul, same_shape, arity=2, weight=2.0),
    plain("maximum", torch.maximum, same_shape, arity=2),
    plain("scale_channels", lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)), image, weight=2.0),
    plain("add_number", lambda x, number: x + number, settings=one_of(number=(0.5, -1.25, 2))),
    plain("mul_number", lambda x, number: number * x, settings=one_of(number=(0.5, -1.5, 3, 0.0))),
    plain("rsub_number", lambda x, number: number - x, settings=one_of(number=(1.0, -0.5))),
    plain("div_number", lambda x: x / 3.0),
)

OPERATIONS: tuple[Operation, ...] = (*_LAYERS, *_UNARY, *_IN_PLACE, *_BINARY, *ARITHMETIC, *MOVEMENT)
