"""QConfig: which observers an operator's activation and weight get."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from fxquant.errors import ConfigError, NotYetError
from fxquant.observers import HistogramObserver, PerChannelMinMaxObserver

ENGINES = ("x86", "fbgemm", "onednn", "qnnpack")


class QConfig(NamedTuple):
    """Observer constructors for one operator.

    Attributes:
        activation: builds the observer of the output (and of inputs that arrive as float).
        weight: builds the observer of the weight.
    """

    activation: Any
    weight: Any


def get_default_qconfig(backend: str = "x86", version: int = 0) -> QConfig:
    """The recommended static post-training configuration.

    Activations: uint8 0..255, affine, range by minimal L2 error over a histogram. Weights: int8 -127..127,
    symmetric, per output channel. The limits that int16 accumulation sets on CPUs without VNNI are met by
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
        activation=HistogramObserver.with_args(reduce_range=False),
        weight=PerChannelMinMaxObserver.with_args(
            dtype=torch.int8, qscheme=torch.per_channel_symmetric, quant_min=-127, quant_max=127
        ),
    )


def check_engine(name: str) -> str:
    """Return ``name`` when it is a known engine.

    Raises:
        ConfigError: it is not.
    """
    if name not in ENGINES:
        raise ConfigError(f"unknown backend {name!r}", remedy=f"use one of {', '.join(ENGINES)}")
    return name
