"""What one kind of step of a random network is, and how its kinds are written down."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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


def any_value(first: Tensor, value: Tensor) -> bool:
    """Fits always."""
    return True


def image(first: Tensor, value: Tensor) -> bool:
    """Fits a batch of two images."""
    return value.dim() == 4 and value.shape[0] == 2


def same_shape(first: Tensor, value: Tensor) -> bool:
    """Fits values of the first one's shape."""
    return value.shape == first.shape


def same_shape_apart(first: Tensor, value: Tensor) -> bool:
    """Fits values of the first one's shape that do not see it in another order: eager writes such in no certain one."""
    shares = first.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()
    same = first.stride() == value.stride() and first.data_ptr() == value.data_ptr()
    return value.shape == first.shape and (same or not shares)


def joins(first: Tensor, value: Tensor) -> bool:
    """Fits images that ``cat`` takes along channels."""
    return first.dim() == value.dim() == 4 and value.shape[2:] == first.shape[2:] and value.shape[0] == first.shape[0]


def nothing(drawn: random.Random, value: Tensor) -> dict[str, Any]:
    """Settings of an operation without."""
    return {}


def one_of(**choices: tuple[Any, ...]) -> Settings:
    """Settings drawn one by one from ``choices``."""
    return lambda drawn, value: {name: drawn.choice(options) for name, options in choices.items()}


def plain(
    name: str, function: Callable[..., Any], fits: Fits = any_value, settings: Settings = nothing, **more: Any
) -> Operation:
    """An operation that calls a function."""
    return Operation(name, lambda module, *values, **kwargs: function(*values, **kwargs), fits, settings, **more)


def method(name: str, fits: Fits = any_value, settings: Settings = nothing, **more: Any) -> Operation:
    """An operation that calls a method of its value."""
    return Operation(f".{name}", lambda m, x, **kwargs: getattr(x, name)(**kwargs), fits, settings, **more)


def layer(name: str, make: MakeModule, fits: Fits = any_value, weight: float = 1.0) -> Operation:
    """An operation that calls a new submodule, or one used before."""
    return Operation(name, lambda module, x: module(x), fits, nothing, make, weight=weight)
