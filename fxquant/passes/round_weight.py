"""The gradient of a weight that was rounded to given integers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fxquant.observers.learnable import SMALLEST_STEP


class PassedThrough(torch.autograd.Function):
    """A value in the place of another, whose gradient passes to the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:
        """Give ``rounded``, of ``x``'s shape."""
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        """The gradient of ``x``."""
        return gradient, None


class RoundedWeight(torch.autograd.Function):
    """A weight as its integers hold it; gradients pass to the weight where it is inside the range.

    A learned step gets the gradient of ``LearnableFakeQuantize``; the factor by which limits of pairs stretched it is
    taken as given.

    Source: Esser et al. 2020, https://arxiv.org/abs/1902.08153, equations 3 to 5 and section 2.2.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, rounded: Tensor, integers: Tensor, scale: Tensor, learned: Tensor | None, largest: int
    ) -> Tensor:
        """Give ``rounded``.

        Args:
            ctx: of autograd.
            rows: float32 [C_out, ...], the weight.
            rounded: what ``integers`` and ``scale`` ([C_out] or []) stand for, of the same shape.
            integers: int8, or float32 that holds integers, of the same shape.
            scale: float32, after stretching.
            learned: the parameter whose magnitude is the step it was made of, [C_out] or [1], or None.
            largest: largest integer of the range.
        """
        along = scale.reshape(-1, *[1] * (rows.dim() - 1)) if scale.dim() else scale
        inside = rows.abs() <= (largest + 0.5) * along
        ctx.largest = largest
        if learned is None:
            ctx.save_for_backward(inside)
        else:
            ctx.save_for_backward(inside, rows, integers, scale, learned)
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        """Gradients of ``rows`` and ``learned``."""
        inside, *rest = ctx.saved_tensors
        passed = gradient * inside
        if not rest:
            return passed, None, None, None, None, None
        rows, integers, scale, learned = rest
        along = scale.reshape(-1, *[1] * (rows.dim() - 1)) if scale.dim() else scale
        slope = (gradient * integers).addcdiv_(passed * rows, along, value=-1)
        total = slope.flatten(1).sum(1) if learned.numel() > 1 else slope.sum().reshape(1)
        factor = 1.0 / math.sqrt(max(1.0, rows.numel() / learned.numel() * ctx.largest))
        grown = scale.reshape(-1) / learned.abs().clamp_(min=SMALLEST_STEP) if scale.numel() == learned.numel() else 1.0
        total = total * (torch.copysign(torch.as_tensor(grown, device=learned.device), learned) * factor)
        return passed, None, None, None, total.reshape(learned.shape), None
