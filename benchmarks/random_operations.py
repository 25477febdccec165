"""The operations random networks are made of: when one fits, its arguments, its module, and the call."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Fits = Callable[[Tensor, Tensor], bool]
Settings = Callable[[random.Random, Tensor], dict[str, Any]]
MakeModule = Callable[[random.Random, Tensor], nn.Module]


@dataclass(frozen=True)
class Operation:
    """One kind of step.

    Attributes:
        name: for printing.
        call: takes the module (or None), the values it reads, and its settings.
        fits: whether a value can be an operand, given the first one.
        settings: draws its arguments.
        module: makes its submodule, None for operations without.
        arity: how many values it reads.
        in_place: whether it changes its first value.
        weight: how often it is drawn.
    """

    name: str
    call: Callable[..., Any]
    fits: Fits
    settings: Settings
    module: MakeModule | None = None
    arity: int = 1
    in_place: bool = False
    weight: float = 1.0


def _any(first: Tensor, value: Tensor) -> bool:
    return True


def _image(first: Tensor, value: Tensor) -> bool:
    return value.dim() == 4 and value.shape[0] == 2


def _same_shape(first: Tensor, value: Tensor) -> bool:
    return value.shape == first.shape


def _joins(first: Tensor, value: Tensor) -> bool:
    return first.dim() == value.dim() == 4 and value.shape[2:] == first.shape[2:] and value.shape[0] == first.shape[0]


def _nothing(drawn: random.Random, value: Tensor) -> dict[str, Any]:
    return {}


def _one_of(**choices: tuple[Any, ...]) -> Settings:
    return lambda drawn, value: {name: drawn.choice(options) for name, options in choices.items()}


def _plain(
    name: str, function: Callable[..., Any], fits: Fits = _any, settings: Settings = _nothing, **more: Any
) -> Operation:
    return Operation(name, lambda module, *values, **kwargs: function(*values, **kwargs), fits, settings, **more)


def _method(name: str, fits: Fits = _any, settings: Settings = _nothing, **more: Any) -> Operation:
    return Operation(f".{name}", lambda m, x, **kwargs: getattr(x, name)(**kwargs), fits, settings, **more)


def _layer(name: str, make: MakeModule, fits: Fits = _any, weight: float = 1.0) -> Operation:
    return Operation(name, lambda module, x: module(x), fits, _nothing, make, weight=weight)


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
    return nn.BatchNorm2d(value.shape[1])


_LAYERS = (
    _layer("conv", _conv, _image, 5.0),
    _layer("conv_bn", _conv_bn, _image, 4.0),
    _layer("linear", _linear, weight=3.0),
    _layer("batch_norm", _batch_norm, _image),
    _layer("layer_norm", lambda drawn, value: nn.LayerNorm(value.shape[-1])),
    _layer("dropout", lambda drawn, value: nn.Dropout(0.5)),
    _layer("identity", lambda drawn, value: nn.Identity()),
    _layer("relu_module", lambda drawn, value: nn.ReLU()),
    _layer("prelu", lambda drawn, value: nn.PReLU()),
)

# -- elementwise -------------------------------------------------------------------------------------

_UNARY = (
    *(_plain(f.__name__, f) for f in (F.relu, torch.relu, F.relu6, F.hardtanh, F.hardswish, F.hardsigmoid, F.elu)),
    *(_plain(f.__name__, f) for f in (torch.sigmoid, torch.tanh, F.gelu, F.silu, torch.abs, torch.neg)),
    _plain("leaky_relu", F.leaky_relu, settings=_one_of(negative_slope=(0.01, 0.2))),
    _plain("clamp", torch.clamp, settings=_one_of(min=(-0.5, 0.0, None), max=(0.3, 1.0))),
    _method("clamp", settings=_one_of(min=(-1.0, 0.2))),
    _plain("softmax", F.softmax, settings=_one_of(dim=(-1,))),
    _plain("erf", torch.erf),
    _plain("sin", torch.sin),
    _plain("cumsum", torch.cumsum, settings=_one_of(dim=(-1,))),
    _plain("own_swish", lambda x: x * torch.sigmoid(x)),
)

_IN_PLACE = (
    _method("relu_", in_place=True),
    _method("clamp_", settings=_one_of(min=(-0.5,), max=(0.5,)), in_place=True),
    _plain("relu6_inplace", lambda x: F.relu6(x, inplace=True), in_place=True),
    _plain("iadd", operator.iadd, _same_shape, arity=2, in_place=True),
    _plain("imul", operator.imul, _same_shape, arity=2, in_place=True, weight=0.5),
)

_BINARY = (
    _plain("add", operator.add, _same_shape, arity=2, weight=3.0),
    _plain("add_relu", lambda x, y: F.relu(torch.add(x, y)), _same_shape, arity=2, weight=2.0),
    _plain("sub", torch.sub, _same_shape, arity=2),
    _plain("mul", operator.mul, _same_shape, arity=2, weight=2.0),
    _plain("maximum", torch.maximum, _same_shape, arity=2),
    _plain("scale_channels", lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)), _image, weight=2.0),
    _plain("add_number", lambda x, number: x + number, settings=_one_of(number=(0.5, -1.25, 2))),
    _plain("mul_number", lambda x, number: number * x, settings=_one_of(number=(0.5, -1.5, 3, 0.0))),
    _plain("rsub_number", lambda x, number: number - x, settings=_one_of(number=(1.0, -0.5))),
    _plain("div_number", lambda x: x / 3.0),
)

# -- shapes ------------------------------------------------------------------------------------------


def _dims(drawn: random.Random, value: Tensor) -> dict[str, Any]:
    rest = list(range(1, value.dim()))
    drawn.shuffle(rest)
    return {"dims": (0, *rest)}


def _halves(x: Tensor) -> Tensor:
    first, second = torch.chunk(x, 2, 1)
    return torch.cat([second, first], 1)


def _second_of_split(x: Tensor) -> Tensor:
    return torch.split(x, [1, x.shape[1] - 1], dim=1)[1]


_MOVES = (
    _plain("cat", lambda x, y: torch.cat([x, y], 1), _joins, arity=2, weight=3.0),
    _plain("cat_three", lambda x, y, z: torch.cat((x, y, z), dim=1), _joins, arity=3),
    _plain("stack_flatten", lambda x, y: torch.stack((x, y), 2).flatten(1, 2), _same_shape, arity=2),
    _plain("chunk_swap", _halves, _image),
    _plain("split_second", _second_of_split, _image),
    _plain("slice", lambda x: x[:, :2], weight=0.7),
    _plain("stride_slice", lambda x: x[..., ::2], weight=0.7),
    _plain("select", lambda x: x[:, -1], weight=0.3),
    _method("permute", settings=_dims, weight=0.7),
    _plain("transpose", lambda x: x.transpose(-1, -2), weight=0.5),
    _plain("flatten", lambda x: torch.flatten(x, 1), weight=0.3),
    _plain("reshape", lambda x: x.reshape(x.size(0), x.size(1), -1), _image, weight=0.3),
    _plain("view", lambda x: x.view(x.size(0), x.size(1), -1), _image, weight=0.3),
    _plain("unsqueeze_squeeze", lambda x: x.unsqueeze(1).squeeze(1), weight=0.5),
    _plain("flip", lambda x: torch.flip(x, (-1,)), weight=0.3),
    _plain("roll", lambda x: torch.roll(x, 1, -1), weight=0.3),
    _plain("contiguous", lambda x: x.contiguous(), weight=0.3),
    _plain("pad", F.pad, _image, _one_of(pad=((1, 1, 1, 1), (0, 1, 0, 1), (1, 0)), mode=("constant", "reflect"))),
    _plain(
        "interpolate", F.interpolate, _image, _one_of(scale_factor=(2.0,), mode=("nearest", "bilinear")), weight=0.7
    ),
)

_POOLS = (
    _plain("max_pool2d", F.max_pool2d, _image, _one_of(kernel_size=(2, 3), stride=(1, 2)), weight=1.5),
    _plain("avg_pool2d", F.avg_pool2d, _image, _one_of(kernel_size=(2, 3), stride=(1, 2), padding=(0, 1)), weight=1.5),
    _plain("adaptive_avg_pool2d", F.adaptive_avg_pool2d, _image, _one_of(output_size=(1, 3, (2, 4)))),
    _plain("mean", torch.mean, _image, _one_of(dim=((2, 3), 1), keepdim=(False, True)), weight=0.7),
)

OPERATIONS: tuple[Operation, ...] = (*_LAYERS, *_UNARY, *_IN_PLACE, *_BINARY, *_MOVES, *_POOLS)
