"""Activations, arithmetic, choices and reductions for random networks."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from random_operation import Operation, image, layer, method, one_of, plain, same_shape
from torch import Tensor, nn

# -- functions of one number ---------------------------------------------------------------------------

_ACTIVATIONS: tuple[Operation, ...] = (
    *(plain(f.__name__, f) for f in (F.mish, F.selu, F.celu, F.softplus, F.softsign, F.logsigmoid, F.tanhshrink)),
    *(plain(f.__name__, f) for f in (F.hardshrink, F.softshrink, torch.erf, torch.sin, torch.cos, torch.atan)),
    *(plain(f.__name__, f) for f in (torch.square, torch.expm1, torch.sign, torch.floor, torch.round)),
    plain("rrelu", F.rrelu, settings=one_of(lower=(0.1,), upper=(0.2, 0.4))),
    plain("threshold", F.threshold, settings=one_of(threshold=(0.1,), value=(-0.5, 0.0))),
    plain("gelu_tanh", F.gelu, settings=one_of(approximate=("tanh",))),
    plain("sqrt_of_positive", lambda x: torch.sqrt(x.abs() + 0.1)),
    plain("log_of_positive", lambda x: torch.log(1 + F.relu(x))),
    plain("rsqrt_of_square", lambda x: torch.rsqrt(x * x + 1)),
    plain("reciprocal", lambda x: 1 / (x.square() + 0.5)),
    plain("power", lambda x, exponent: x**exponent, settings=one_of(exponent=(2, 3))),
    plain("two_power", lambda x: 2 ** torch.clamp(x, -3, 3)),
    method("clamp_max", settings=one_of(max=(0.3, -0.2))),
)

_EXPRESSIONS: tuple[Operation, ...] = (
    plain("written_hardswish", lambda x: x * F.relu6(x + 3) / 6),
    plain("written_gelu", lambda x: 0.5 * x * (1 + torch.erf(x * 0.7071))),
    plain("written_leaky", lambda x: torch.where(x > 0, x, 0.1 * x)),
    plain("masked_by_itself", lambda x: x * (x > 0.1)),
    plain("shared_part", lambda x: _shared_part(x)),
)


def _shared_part(x: Tensor) -> Tensor:
    """An expression of which a part is read elsewhere too."""
    gate = torch.sigmoid(x)
    return torch.where(gate > 0.5, x * gate, gate)


# -- with constants ----------------------------------------------------------------------------------


class Constants(nn.Module):
    """Combines its input with a parameter: one number, one a channel, or one for every place.

    Args:
        combine: the operation.
        shape: of the parameter.
        reflected: whether the parameter is the first operand.
    """

    def __init__(self, combine: Callable[..., Tensor], shape: tuple[int, ...], reflected: bool) -> None:
        super().__init__()
        self.combine, self.reflected = combine, reflected
        self.value = nn.Parameter(torch.rand(shape) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Combine; the result has the shape of ``x``."""
        return self.combine(self.value, x) if self.reflected else self.combine(x, self.value)


def _constants(drawn: random.Random, value: Tensor) -> nn.Module:
    channels = (value.shape[1], *[1] * (value.dim() - 2)) if value.dim() > 1 else ()
    shape = drawn.choice(((), (1,), (value.shape[-1],), channels, tuple(value.shape[1:])))
    combine = drawn.choice((operator.add, operator.sub, operator.mul, torch.maximum, _quotient))
    return Constants(combine, shape, drawn.random() < 0.4)


def _quotient(x: Tensor, y: Tensor) -> Tensor:
    return x / (y.abs() + 0.5)


def _prelu(drawn: random.Random, value: Tensor) -> nn.Module:
    return nn.PReLU(value.shape[1])


def _masked_fill(x: Tensor, y: Tensor, value: float) -> Tensor:
    return x.masked_fill(y > 0, value)


# -- several tensors -----------------------------------------------------------------------------------

_PAIRS: tuple[Operation, ...] = (
    plain("div", _quotient, same_shape, arity=2),
    plain("minimum", torch.minimum, same_shape, arity=2),
    plain("max_of_two", torch.max, same_shape, arity=2),
    plain("where", lambda x, y: torch.where(x > y, x, y * 0.5), same_shape, arity=2),
    plain("where_zero", lambda x, y: torch.where(y > 0, x, 0.0), same_shape, arity=2),
    plain(
        "masked_fill", lambda x, y, value: x.masked_fill(y > 0, value), same_shape, one_of(value=(0.0, 2.5)), arity=2
    ),
    plain("add_alpha", torch.add, same_shape, one_of(alpha=(2, -0.5)), arity=2),
    plain("lerp", torch.lerp, same_shape, one_of(weight=(0.25,)), arity=2),
    plain("addcmul", torch.addcmul, same_shape, one_of(value=(0.5,)), arity=3),
    plain("clamp_by_tensor", lambda x, y: torch.clamp(x, min=y), same_shape, arity=2),
    plain("masked_softmax", lambda x, y: F.softmax(x.masked_fill(y > 0.5, -1e9), -1), same_shape, arity=2),
)

# -- reductions ------------------------------------------------------------------------------------------


def _dim(drawn: random.Random, value: Tensor) -> dict[str, Any]:
    return {"dim": drawn.choice((1, -1)), "keepdim": drawn.random() < 0.7}


def _varies(first: Tensor, value: Tensor) -> bool:
    """Whether a deviation over channels or columns is of several numbers."""
    return value.dim() > 1 and value.shape[1] > 1 and value.shape[-1] > 1


def _last(drawn: random.Random, value: Tensor) -> dict[str, Any]:
    return {"dim": drawn.choice((1, -1))}


_REDUCTIONS: tuple[Operation, ...] = (
    *(plain(f.__name__, f, settings=_dim) for f in (torch.sum, torch.mean, torch.amax, torch.amin, torch.logsumexp)),
    *(plain(f.__name__, f, _varies, _dim) for f in (torch.std, torch.var)),
    plain("cumsum_dim", torch.cumsum, settings=_last),
    plain("norm", torch.linalg.vector_norm, settings=_dim),
    plain("max_values", lambda x, **dim: torch.max(x, **dim).values, settings=_dim),
    plain("min_unpacked", lambda x, **dim: torch.min(x, **dim)[0], settings=_dim),
    plain("centre", lambda x: x - x.mean(-1, keepdim=True)),
    plain("scale_by_largest", lambda x: x / (x.abs().amax(dim=-1, keepdim=True) + 0.5)),
    plain("glu", F.glu, lambda first, value: value.shape[-1] % 2 == 0),
    plain("log_softmax", F.log_softmax, settings=one_of(dim=(-1,))),
    plain("global_mean", lambda x: x * x.mean((2, 3), keepdim=True), image),
)

ARITHMETIC: tuple[Operation, ...] = tuple(
    Operation(o.name, o.call, o.fits, o.settings, o.module, o.arity, o.in_place, 0.35)
    for o in (
        *_ACTIVATIONS,
        *_EXPRESSIONS,
        *_PAIRS,
        *_REDUCTIONS,
        layer("constants", _constants, lambda first, value: value.dim() > 0),
        layer("prelu_channels", _prelu, lambda first, value: value.dim() > 1),
    )
)
