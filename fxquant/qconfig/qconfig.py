"""QConfig: which observers an operator's activation and weight get."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn

from fxquant.errors import ConfigError, NotYetError
from fxquant.numerics import SMALLEST_SCALE
from fxquant.observers import HistogramObserver, PerChannelMinMaxObserver

ENGINES = ("x86", "fbgemm", "onednn", "qnnpack")


class _Slots(NamedTuple):
    activation: Any
    weight: Any


class QConfig(_Slots):
    """Observer constructors for one operator: classes, or what their ``with_args`` returns.

    Attributes:
        activation: builds the observer of the output (and of inputs that arrive as float).
        weight: builds the observer of the weight.

    Raises:
        ConfigError: an observer was given instead of what builds one.
    """

    __slots__ = ()

    def __new__(cls, activation: Any, weight: Any) -> QConfig:
        """Check that each slot builds observers, since every place needs its own."""
        for slot, given in (("activation", activation), ("weight", weight)):
            if isinstance(given, nn.Module):
                raise ConfigError(
                    f"QConfig: {slot} is a {type(given).__name__} that was built already",
                    remedy=f"pass {type(given).__name__} itself, or {type(given).__name__}.with_args(...)",
                )
        return super().__new__(cls, activation, weight)


QConfigAny: TypeAlias = QConfig | None
"""A QConfig, or None to keep operators float."""


def get_default_qconfig(backend: str = "x86", version: int = 0) -> QConfig:
    """The recommended static post-training configuration.

    Activations: uint8 0..255, affine, range by minimal L2 error over a histogram, tiny ones too. Weights: int8
    -127..127, symmetric, per output channel. The limits that int16 accumulation sets on CPUs without VNNI are met by
    limiting pairs of weights, not by giving up a bit of every activation.

    Args:
        backend: x86, fbgemm, onednn or qnnpack.
        version: 0, kept for compatibility of signatures.

    Raises:
        ConfigError: unknown backend.
    """
    check_engine(backend)
    if version != 0:
        raise NotYetError(f"get_default_qconfig has no version {version}", remedy="use version=0")
    return QConfig(
        activation=HistogramObserver.with_args(reduce_range=False, eps=SMALLEST_SCALE),
        weight=PerChannelMinMaxObserver.with_args(
            dtype=torch.int8, qscheme=torch.per_channel_symmetric, quant_min=-127, quant_max=127
        ),
    )


def qconfig_equals(q1: Any, q2: Any) -> bool:
    """Whether two QConfigs, ours or torch.ao's, build the same observers with the same arguments; None equals None."""
    if q1 is None or q2 is None:
        return q1 is q2
    return _same_observer(q1.activation, q2.activation) and _same_observer(q1.weight, q2.weight)


def _same_observer(first: Any, second: Any) -> bool:
    """Compare two observer constructors; those that torch.ao's ``with_args`` makes hold a ``partial`` as ``p``."""
    one, other = getattr(first, "p", None), getattr(second, "p", None)
    if not isinstance(one, partial) or not isinstance(other, partial):
        return bool(first == second)
    return (
        _same_observer(one.func, other.func)
        and one.args == other.args
        and one.keywords.keys() == other.keywords.keys()
        and all(_same_observer(value, other.keywords[key]) for key, value in one.keywords.items())
        and first.callable_args == second.callable_args
    )


def check_engine(name: str) -> str:
    """Return ``name`` when it is a known engine.

    Raises:
        ConfigError: it is not.
    """
    if name not in ENGINES:
        raise ConfigError(f"unknown backend {name!r}", remedy=f"use one of {', '.join(ENGINES)}")
    return name
