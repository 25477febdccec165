"""Data movement and selection on the integers themselves."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.backends.native.kernels.base import from_integers, integers_of
from fxquant.ops import catalogue


def on_integers(name: str, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Run a catalogue operator that only moves or selects on the integers of ``x``.

    Args:
        name: catalogue name.
        x: uint8 quantized tensor; args and kwargs follow it in the operator's call.
    """
    return from_integers(_target(name)(integers_of(x), *args, **kwargs), x.q_scale(), x.q_zero_point())


def pool_integers(name: str, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Run a max pooling that torch has for floats only; 0..255 are exact in float32."""
    pooled = _target(name)(integers_of(x).to(torch.float32), *args, **kwargs)
    return from_integers(pooled.to(torch.uint8), x.q_scale(), x.q_zero_point())


def pad_integers(x: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Tensor:
    """``F.pad`` on integers; zero padding writes the zero point."""
    zero_point = x.q_zero_point()
    fill = zero_point if mode == "constant" else None
    return from_integers(F.pad(integers_of(x), pad, mode, fill), x.q_scale(), zero_point)


def _target(name: str) -> Any:
    row = catalogue.by_name(name)
    assert row is not None
    if isinstance(row.target, str):
        return getattr(Tensor, row.target)
    return row.target
