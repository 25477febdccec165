"""The modules that an observed model calls: they add what an observer does not know, names and counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fxquant.errors import CalibrationError
from fxquant.observers.base import ObserverBase


class AttachedObserver(nn.Module):
    """Runs one observer at the places where a range is observed.

    Args:
        observer: an observer of fxquant or torch.ao.

    Attributes:
        batches: number of batches seen, by place.
    """

    def __init__(self, observer: nn.Module) -> None:
        super().__init__()
        self.observer = observer
        self.batches: dict[str, int] = {}

    def forward(self, x: Tensor, node: str, module_path: str = "", source: str = "") -> Tensor:
        """Observe ``x`` (any shape, floating) and return it as it is.

        Raises:
            CalibrationError: ``x`` holds NaN or infinity; names the node and the batch, counted from 0.
        """
        batch = self.batches.get(node, 0)
        self.batches[node] = batch + 1
        try:
            self._observe(x)
        except CalibrationError as error:
            raise CalibrationError(
                f"{error.message}, at node {node!r} in calibration batch {batch}",
                op=node,
                module_path=module_path,
                source=source,
                remedy=error.remedy,
            ) from None
        return x

    def train(self, mode: bool = True) -> AttachedObserver:
        """Calibration happens in evaluation mode too: what observes only while training (fake quantization) goes on."""
        super().train(mode)
        self.observer.train()
        return self

    def _observe(self, x: Tensor) -> None:
        if isinstance(self.observer, ObserverBase):
            self.observer(x)
            return
        with torch.inference_mode(False), torch.no_grad():
            if x.numel() and not bool(torch.isfinite(x).all()):
                raise CalibrationError("NaN or infinity", remedy="look for values that are not finite in the data")
            self.observer(x.detach())


class InputStatistics(nn.Module):
    """Mean and variance of an activation per input channel, for correcting biases and weighing errors of weights.

    Args:
        channel_axis: axis of the channels, negative: ``-1`` for linear, ``-(rank + 1)`` for convolutions.

    Attributes:
        total, total_squares: float64 [C], sums over everything but channels; empty before data.
        count: int64 [], how many values each sum holds.
    """

    total: Tensor
    total_squares: Tensor
    count: Tensor

    def __init__(self, channel_axis: int) -> None:
        super().__init__()
        self.channel_axis = channel_axis
        with torch.inference_mode(False):
            self.register_buffer("total", torch.zeros(0, dtype=torch.float64))
            self.register_buffer("total_squares", torch.zeros(0, dtype=torch.float64))
            self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> None:
        """Add ``x``, [..., C, ...] floating."""
        if x.numel() == 0:
            return
        with torch.inference_mode(False), torch.no_grad():
            axis = self.channel_axis % x.dim()
            others = [dim for dim in range(x.dim()) if dim != axis]
            known, x = self.total.numel() > 0, x.detach()
            sums = [value.sum(others) if others else value for value in (x, x.square())]
            total, squares = (value.to(torch.float64) for value in sums)
            self.total = self.total + total if known else total
            self.total_squares = self.total_squares + squares if known else squares
            self.count = self.count + x.numel() // x.shape[axis]

    @property
    def mean(self) -> Tensor | None:
        """float32 [C], None before data."""
        return (self.total / self.count).to(torch.float32) if self.total.numel() else None

    @property
    def variance(self) -> Tensor | None:
        """float32 [C], None before data."""
        if not self.total.numel():
            return None
        return (self.total_squares / self.count - (self.total / self.count) ** 2).clamp(min=0).to(torch.float32)

    def _apply(self, fn: Any, recurse: bool = True) -> InputStatistics:
        device = fn(torch.zeros(1, device=self.total.device)).device
        for name in ("total", "total_squares", "count"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}total")
        if isinstance(saved, Tensor):
            self.total = torch.zeros(saved.shape, dtype=torch.float64)
            self.total_squares = torch.zeros(saved.shape, dtype=torch.float64)
        super()._load_from_state_dict(state_dict, prefix, *args)
