"""Observers that keep one range per channel."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fxquant.errors import CalibrationError
from fxquant.observers.base import RangeObserver, check_finite
from fxquant.observers.moving_average import checked_averaging_constant


class PerChannelMinMaxObserver(RangeObserver):
    """Keeps the minimum and maximum of each channel; ``min_val`` and ``max_val`` are [C] once data were seen.

    Args:
        ch_axis: the channels' dimension in the observed tensors; may be negative.
        dtype: see ``RangeObserver``, as all that follow.
        qscheme: per channel: affine, symmetric, or affine with a float zero point (embedding tables).
        *args: ``reduce_range``, ``quant_min``, ``quant_max``.
        **kwargs: the same by name, ``eps`` and ``factory_kwargs``.
    """

    schemes: ClassVar[tuple[torch.qscheme, ...]] = (
        torch.per_channel_affine,
        torch.per_channel_symmetric,
        torch.per_channel_affine_float_qparams,
    )
    unseen_shape: ClassVar[tuple[int, ...]] = (0,)
    can_be_dynamic: ClassVar[bool] = False

    ch_axis: int

    def __init__(
        self,
        ch_axis: int = 0,
        dtype: torch.dtype = torch.uint8,
        qscheme: torch.qscheme = torch.per_channel_affine,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype, qscheme, *args, **kwargs)
        self.ch_axis = ch_axis

    def _observe(self, x: Tensor) -> None:
        low, high = self._channel_ranges(x)
        if self.has_seen_data:
            low, high = torch.minimum(self.min_val, low), torch.maximum(self.max_val, high)
        self.min_val, self.max_val = low, high

    def _channel_ranges(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Minimum and maximum of each channel of ``x``, [C] float32 on the buffers' device."""
        if not -x.ndim <= self.ch_axis < x.ndim:
            raise CalibrationError(
                f"a tensor of shape {tuple(x.shape)} has no channel axis {self.ch_axis}",
                remedy="set ch_axis, or observe this tensor per tensor",
            )
        rows = x.movedim(self.ch_axis, 0)
        low, high = torch.aminmax(rows.reshape(rows.shape[0], -1), dim=1)
        check_finite(low, high)
        if self.has_seen_data and low.shape != self.min_val.shape:
            raise CalibrationError(
                f"a tensor with {low.numel()} channels along axis {self.ch_axis} was observed "
                f"after one with {self.min_val.numel()}",
                remedy="set ch_axis to a dimension whose size does not change",
            )
        return low.to(self.min_val.device), high.to(self.max_val.device)


class MovingAveragePerChannelMinMaxObserver(PerChannelMinMaxObserver):
    """Averages each channel's minimum and maximum over batches, ``m + c * (batch - m)``.

    Args:
        averaging_constant: c, the weight of a new batch, above 0 and at most 1.
        ch_axis: see ``PerChannelMinMaxObserver``, as all that follow.
        *args: ``dtype``, ``qscheme``, ``reduce_range``, ``quant_min``, ``quant_max``.
        **kwargs: the same by name, ``eps`` and ``factory_kwargs``.
    """

    def __init__(self, averaging_constant: float = 0.01, ch_axis: int = 0, *args: Any, **kwargs: Any) -> None:
        super().__init__(ch_axis, *args, **kwargs)
        self.averaging_constant = checked_averaging_constant(averaging_constant)

    def _observe(self, x: Tensor) -> None:
        low, high = self._channel_ranges(x)
        if self.has_seen_data:
            low = self.min_val + self.averaging_constant * (low - self.min_val)
            high = self.max_val + self.averaging_constant * (high - self.max_val)
        self.min_val, self.max_val = low, high
