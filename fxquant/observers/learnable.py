"""Fake quantization whose step size is a parameter that training learns.

Source: Esser et al. 2020, Learned Step Size Quantization, https://arxiv.org/abs/1902.08153.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.observers.fake_quantize import FakeQuantize, runs_again
from fxquant.observers.rounding import fake_quantize_tensor, gradient_edges
from fxquant.observers.shared_range import shared_extremes
from fxquant.observers.switches import is_on

SMALLEST_STEP = 1e-6


class LearnableFakeQuantize(FakeQuantize):
    """Rounds with a step size that is a parameter; give it to the optimizer with the weights.

    The step begins at the range of the first tensor (of a weight: when the model is prepared), and so does the zero
    point, which is not learned.

    Arguments are those of ``FakeQuantize``.

    Attributes:
        scale: float32 parameter [1] or [C], the step size; its magnitude counts.
        started: uint8 [1], whether the step has begun.
    """

    started: Tensor

    def _watch(self, observer: Any) -> None:
        super()._watch(observer)
        del self._buffers["scale"]
        with torch.inference_mode(False):
            self.scale = nn.Parameter(torch.ones(1))
            self.register_buffer("started", torch.zeros(1, dtype=torch.uint8))

    @property
    def has_seen_data(self) -> bool:
        """Whether there is a step to round with."""
        return is_on(self, "started")

    @property
    def follows(self) -> bool:
        """Never: the step is learned."""
        return False

    @property
    def is_memoryless(self) -> bool:
        """Never: the step is learned."""
        return False

    @property
    def is_symmetric(self) -> bool:
        """Whether steps are int8, with 0.0 in the middle."""
        return self.dtype == torch.int8 and self.qscheme in (torch.per_channel_symmetric, torch.per_tensor_symmetric)

    def observes(self) -> bool:
        """Whether a tensor that comes now sets the step."""
        return not self.has_seen_data and not runs_again()

    def start(self, rows: Tensor) -> None:
        """Begins with the range of a weight, float32, one row per output channel."""
        if self.is_per_channel:
            self.ch_axis = 0
            self.activation_post_process.ch_axis = 0
        self.observe(rows)

    def observe(self, x: Tensor) -> None:
        """Begins with the range of ``x``, any shape and float dtype."""
        with torch.inference_mode(False), torch.no_grad():
            observer: Any = self.activation_post_process
            observer(shared_extremes(x.detach(), observer))
            self.take(*observer.calculate_qparams())

    def take(self, scale: Any, zero_point: Any) -> None:
        """Sets step and zero point, both [] or [1] or [C]."""
        with torch.inference_mode(False), torch.no_grad():
            step = torch.as_tensor(scale, dtype=torch.float32).detach().reshape(-1)
            self.scale.data = step.to(self.scale.device).clone()
            offset = torch.as_tensor(zero_point).detach().reshape(-1)
            self.zero_point = offset.to(device=self.zero_point.device, dtype=self.zero_point.dtype).clone()
            self.started.fill_(1)

    def scale_empty_range(self) -> None:
        """Does nothing: the step is learned."""

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """``(scale float32, zero_point)`` that values are rounded with; see ``FakeQuantize``."""
        return (self.step, self.zero_point) if self.has_seen_data else super().calculate_qparams()

    @property
    def step(self) -> Tensor:
        """The step as a positive number, float32 [1] or [C], without gradient."""
        return self.scale.detach().abs().clamp_(min=SMALLEST_STEP)

    def rounded(self, x: Tensor, quant_min: int, quant_max: int) -> Tensor:
        """``x`` rounded with this module's step and zero point to integers of a range of the caller's."""
        axis = self.ch_axis if self.is_per_channel else None
        result: Tensor = LearnedRounding.apply(x, self.scale, self.zero_point, quant_min, quant_max, axis)  # type: ignore[no-untyped-call]
        return result

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Takes on the saved number of channels before values are copied."""
        saved = state_dict.get(f"{prefix}scale")
        if isinstance(saved, Tensor) and saved.shape != self.scale.shape:
            self.scale.data = torch.empty(saved.shape, device=self.scale.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


class LearnedRounding(torch.autograd.Function):
    """Rounding whose backward gives the step its gradient.

    ``d y / d s`` is ``round(x/s) - x/s`` inside the range and the clipped integer outside, times
    ``1/sqrt(features * largest integer)``.

    Source: Esser et al. 2020, https://arxiv.org/abs/1902.08153, equations 3 to 5 and section 2.2.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int, axis: int | None
    ) -> Tensor:
        """See ``fake_quantize_tensor``; the step is the magnitude of ``scale``."""
        step = scale.abs().clamp_(min=SMALLEST_STEP)
        result = fake_quantize_tensor(x, step, zero_point, quant_min, quant_max, axis)
        ctx.save_for_backward(x, result, scale, step, zero_point)
        ctx.quant_min, ctx.quant_max, ctx.axis = quant_min, quant_max, axis
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        """Gradients of ``x`` and ``scale``."""
        x, result, scale, step, zero_point = ctx.saved_tensors
        reach = ctx.quant_max - int(zero_point.item() if zero_point.numel() == 1 else zero_point.max())
        features = x.numel() / max(1, x.shape[0] if x.dim() > 1 else 1)
        factor = 1.0 / math.sqrt(max(1.0, features * max(reach, 1)))
        if ctx.axis is None and zero_point.device.type == "cpu":
            passed, total = _one_scale(gradient, x, result, step.item(), zero_point.item(), ctx)
        else:
            passed, total = _along_axis(gradient, x, result, step, zero_point, ctx)
        learned = total.reshape(scale.shape).to(scale.dtype) * (scale.sign() * factor)
        return passed, learned, None, None, None, None


def _one_scale(
    gradient: Tensor, x: Tensor, result: Tensor, step: float, zero_point: float, ctx: Any
) -> tuple[Tensor, Tensor]:
    """Gradient of ``x``, and the sum of ``gradient * dy/ds``, [], in few operations.

    ``gradient * (y - x)`` inside; outside, where the gradient of ``x`` is 0, ``x`` is added again.
    """
    low, high = gradient_edges(step, zero_point, ctx.quant_min, ctx.quant_max)
    passed = torch.ops.aten.hardtanh_backward(gradient, x, low, high)
    work = result.to(torch.float32) - x
    work.mul_(gradient).addcmul_(gradient.to(torch.float32) - passed, x.to(torch.float32))
    return passed, work.sum() / step


def _along_axis(
    gradient: Tensor, x: Tensor, result: Tensor, step: Tensor, zero_point: Tensor, ctx: Any
) -> tuple[Tensor, Tensor]:
    """The same with a scale for each channel along ``ctx.axis``: sums are [C]."""
    sizes = [1] * x.dim()
    if ctx.axis is not None:
        sizes[ctx.axis] = -1
    along, offset = step.reshape(sizes), zero_point.reshape(sizes)
    level = torch.round(x * (1.0 / along)) + offset
    inside = (level >= ctx.quant_min) & (level <= ctx.quant_max)
    slope = (result - x * inside) / along
    others = [dim for dim in range(x.dim()) if ctx.axis is None or dim != ctx.axis % x.dim()]
    return gradient * inside, (gradient * slope).sum(others)
