"""Fake quantization whose step size is a parameter that training learns.

Source: Esser et al. 2020, Learned Step Size Quantization, https://arxiv.org/abs/1902.08153.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.observers.fake_quantize import FakeQuantize, runs_again
from fxquant.observers.rounding import fake_quantize_tensor
from fxquant.observers.shared_range import shared_extremes

_SMALLEST_STEP = 1e-6


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
        return bool(self.started.item())

    @property
    def follows(self) -> bool:
        """Never: the step is learned."""
        return False

    @property
    def is_memoryless(self) -> bool:
        """Never: the step is learned."""
        return False

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
        return (self.step.detach(), self.zero_point) if self.has_seen_data else super().calculate_qparams()

    @property
    def step(self) -> Tensor:
        """The step as a positive number, float32 [1] or [C]; gradients reach ``scale`` through it."""
        return self.scale.abs().clamp(min=_SMALLEST_STEP)

    def rounded(self, x: Tensor, quant_min: int, quant_max: int) -> Tensor:
        """``x`` rounded with this module's step and zero point to integers of a range of the caller's."""
        axis = self.ch_axis if self.is_per_channel else None
        result: Tensor = LearnedRounding.apply(x, self.step, self.zero_point, quant_min, quant_max, axis)  # type: ignore[no-untyped-call]
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
        ctx: Any, x: Tensor, step: Tensor, zero_point: Tensor, quant_min: int, quant_max: int, axis: int | None
    ) -> Tensor:
        """See ``fake_quantize_tensor``."""
        result = fake_quantize_tensor(x, step, zero_point, quant_min, quant_max, axis)
        ctx.save_for_backward(x, result, step, zero_point)
        ctx.quant_min, ctx.quant_max, ctx.axis = quant_min, quant_max, axis
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        """Gradients of ``x`` and ``step``."""
        x, result, step, zero_point = ctx.saved_tensors
        sizes = [1] * x.dim()
        if ctx.axis is not None:
            sizes[ctx.axis] = -1
        along, offset = step.reshape(sizes), zero_point.reshape(sizes)
        level = torch.round(x * (1.0 / along)) + offset
        inside = (level >= ctx.quant_min) & (level <= ctx.quant_max)
        slope = (result - x * inside) / along
        others = [dim for dim in range(x.dim()) if ctx.axis is None or dim != ctx.axis % x.dim()]
        features = x.numel() / max(1, x.shape[0] if x.dim() > 1 else 1)
        factor = 1.0 / math.sqrt(max(1.0, features * max(ctx.quant_max - int(zero_point.max()), 1)))
        learned = ((gradient * slope).sum(others) * factor).reshape(step.shape).to(step.dtype)
        return gradient * inside, learned, None, None, None, None
