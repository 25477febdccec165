"""Weights of a model in quantization-aware training: batch norms folded, rounded as the kernel will have them.

While a batch norm normalises by the batch at hand, the weight is rounded as it will be with the running statistics
folded in, and divided again, so that the batch norm after it sees what it would see in float, but for the rounding::

    y = batch_norm(conv(x, round(w·f) / f)),  f = γ·rsqrt(σ²+ε) of the running statistics

In evaluation, and once batch norms are frozen, it is what conversion makes: ``conv(x, round(w·f), (b-μ)·f+β)``.

Source: Krishnamoorthi 2018, https://arxiv.org/abs/1806.08342, section 3.2.2.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.ir.quant_plan import Unit
from fxquant.numerics.affine import dequantize
from fxquant.numerics.batch_norm import fold_batch_norm, fold_batch_norm_before
from fxquant.numerics.conv_geometry import input_rows, output_rows
from fxquant.numerics.pair_limit import choose_stretch, limit_levels
from fxquant.observers.fake_quantize import FakeQuantize, runs_again
from fxquant.observers.learnable import LearnableFakeQuantize
from fxquant.observers.switches import is_on
from fxquant.passes.fold_weights import FloatWeight
from fxquant.passes.normalize import normalizes_by_batch
from fxquant.passes.quantize_weights import (
    QuantizedWeight,
    as_int32,
    floor_scale,
    integer_range,
    limit_of,
    quantize_unit,
    round_rows,
)
from fxquant.passes.round_weight import RoundedWeight

_STRETCH_EVERY = 100
"""Training steps between two searches for the stretch of scales that limits of pairs ask for: weights move slowly."""

_ROUNDED_IN = 0.499
"""Steps beyond the last integer that are surely rounded to it."""

_SMALLEST_GAMMA = 2.0**-10
"""Channels with a smaller γ are rounded as if it were 1: they could not be divided by it again."""


class TrainedWeight(nn.Module):
    """Gives a unit's weight and bias as integers will hold them.

    Args:
        unit: its kernel states the limits of the weights.
        fake: the fake-quantize module of the weight.
        groups: of the convolution, 1 for linear.
        transposed: whether it is a transposed convolution.

    Attributes:
        stretch: float32 [C_out] or [1], zeros until searched; see ``choose_stretch``.
        uses: int64 [], training steps since the first.
        batch_norm_frozen: uint8 [1], whether batch norms keep their statistics and are folded in training too.
    """

    stretch: Tensor
    uses: Tensor
    batch_norm_frozen: Tensor

    def __init__(self, unit: Unit, fake: FakeQuantize, groups: int, transposed: bool) -> None:
        super().__init__()
        self.unit, self.fake, self.groups, self.transposed = unit, fake, groups, transposed
        fake.ch_axis = 0
        if hasattr(fake.activation_post_process, "ch_axis"):
            fake.activation_post_process.ch_axis = 0
        low, high = integer_range(fake)
        self._limits = low, high, limit_of(unit, low, high)
        kernel = unit.kernel
        usual = kernel is not None and kernel.weight_granularity == "channel" and kernel.weight_limit != "half"
        self._plain = usual and fake.scales_by_reach
        self._learns = usual and not self._limits[2] and isinstance(fake, LearnableFakeQuantize) and fake.is_symmetric
        self._rounds_bias = kernel is not None and kernel.engine == "qnnpack"
        self._clips = fake.quant_max - fake.quant_min > 2 * min(-low, high)
        self._pending: tuple[Tensor, Any] | None = None
        with torch.inference_mode(False):
            self.register_buffer("stretch", torch.zeros(0))
            self.register_buffer("uses", torch.zeros((), dtype=torch.int64))
            self.register_buffer("batch_norm_frozen", torch.zeros(1, dtype=torch.uint8))

    def start(self, rows: Tensor) -> None:
        """Begin with the range of a weight as it is, so that ranges may stay from the first step on.

        Buffers get the shapes that they keep, which copies that are averaged need.

        Args:
            rows: float [C_out, ...], batch norms folded; one that is not finite is left to the first step.
        """
        values = rows.detach().to(torch.float32)
        if values.numel() == 0 or not bool(torch.isfinite(values).all()):
            return
        if isinstance(self.fake, LearnableFakeQuantize):
            self.fake.start(values)
        else:
            self.fake.observe(values)
        kernel = self.unit.kernel
        one = kernel is not None and kernel.weight_granularity == "tensor"
        with torch.inference_mode(False):
            self.stretch = values.new_zeros(1 if one else self.fake.scale.numel())

    def forward(
        self, weight: Tensor, bias: Tensor | None, before: Any = None, after: Any = None, source: Any = None
    ) -> tuple[Tensor, Tensor | None, bool, bool]:
        """Fold and round.

        Args:
            weight: as the unit's operator takes it.
            bias: [C_out] or None.
            before, after: the batch norms on either side: modules, or ``NormCall``s; None where there is none.
            source: the range of the unit's input, None when that is quantized as it arrives.

        Returns:
            Weight and bias to call the operator with, and whether the batch norms before and after it are to be called.
        """
        rows = output_rows(weight, self.groups) if self.transposed else weight
        learns = not is_on(self, "batch_norm_frozen")
        calls_before = before is not None and learns and normalizes_by_batch(before)
        calls_after = after is not None and learns and normalizes_by_batch(after)
        trains = self.training and weight.dtype == torch.float32
        quick = self._plain and trains
        if calls_after and before is None and quick and self.fake.is_per_channel and self.fake.is_on:
            rows = self._round_at_once(rows, after)
            return input_rows(rows, self.groups) if self.transposed else rows, bias, calls_before, calls_after
        self._settle()
        factors = []
        if before is not None:
            if calls_before:
                factors.append(_along_inputs(_factor(before), rows, self.groups))
                rows = rows * factors[-1]
            else:
                rows, bias = fold_batch_norm_before(rows, bias, **_terms(before), groups=self.groups)
        if after is not None:
            if calls_after:
                factors.append(_factor(after).reshape(-1, *[1] * (rows.dim() - 1)))
                rows = rows * factors[-1]
            else:
                rows, bias = fold_batch_norm(rows, bias, **_terms(after))
        free = bool(factors) or bias is None or not self._rounds_bias
        if self._learns and trains and free and is_on(self.fake, "fake_quant_enabled") and self.fake.has_seen_data:
            rows = self._round_learned(rows, *((bias, source) if not factors else (None, None)))
        elif quick and free and self._is_inside(rows):
            rows = self._round_at_once(rows, None, *((bias, source) if not factors else ()))
        else:
            rows, bias = self._round(rows, bias, source, as_it_runs=not factors)
        for factor in factors:
            rows = rows / factor
        return input_rows(rows, self.groups) if self.transposed else rows, bias, calls_before, calls_after

    def _round(self, rows: Tensor, bias: Tensor | None, source: Any, as_it_runs: bool) -> tuple[Tensor, Tensor | None]:
        if not is_on(self.fake, "fake_quant_enabled"):
            return rows, bias
        values = rows if rows.dtype == torch.float32 else rows.to(torch.float32)
        with torch.inference_mode(False), torch.no_grad():
            known_range = source is not None and source.has_seen_data
            step = source.calculate_qparams()[0].reshape(()) if known_range else None
            known = bias.detach() if bias is not None and as_it_runs else None
            self._count()
            integers, scale = round_rows(self.unit, values.detach(), known, self.fake, step, stretch=self._stretch_of)
            axis = 0 if scale.dim() else None
            rounded = dequantize(integers, scale, torch.zeros_like(scale, dtype=torch.int64), axis)
        learned = self.fake.scale if isinstance(self.fake, LearnableFakeQuantize) else None
        result: Tensor = RoundedWeight.apply(values, rounded, integers, scale, learned, self.fake.quant_max)  # type: ignore[no-untyped-call]
        if bias is not None and step is not None and as_it_runs and self._rounds_bias:
            bias = bias + (as_int32(bias, step * scale) - bias).detach()
        return result.to(rows.dtype), bias

    def _is_inside(self, rows: Tensor) -> bool:
        """Whether a weight, float32 [C_out, ...], is rounded, and is inside its range, which follows it or stays."""
        fake = self.fake
        if not is_on(fake, "fake_quant_enabled") or is_on(fake, "observer_enabled"):
            return fake.is_on
        if not fake.has_seen_data or fake.scale.numel() not in (1, len(rows)):
            return False
        scale = fake.scale * self.stretch if self._limits[2] and self._is_stretched(fake.scale.numel()) else fake.scale
        with torch.no_grad():
            along = scale.view(-1, *[1] * (rows.dim() - 1))
            return bool((rows.abs() <= (min(self._limits[1], -self._limits[0]) + _ROUNDED_IN) * along).all())

    def _round_at_once(self, rows: Tensor, after: Any, bias: Tensor | None = None, source: Any = None) -> Tensor:
        """A weight inside its own range, in few operations: its gradient passes everywhere.

        A copy is made, and rounded in place without autograd. Scaling a channel scales its range alike, so that the
        factor of a batch norm that goes by the batch cancels out.

        Args:
            rows: float32 [C_out, ...].
            after: the batch norm that cancels out, or None.
            bias, source: see ``forward``; None where the scale does not depend on them.
        """
        rounded = rows.clone()
        with torch.no_grad():
            self._count()
            low, high, limit = self._limits
            if is_on(self.fake, "observer_enabled"):
                dims = tuple(range(1 if self.fake.is_per_channel else 0, rows.dim()))
                reach = rounded.abs().amax(dims, keepdim=True)
                self._pending = reach, after
                scale = self.fake.scale_of_reach(reach)
            else:
                scale = self.fake.scale.view(-1, *[1] * (rows.dim() - 1))
            if bias is not None and source is not None and source.has_seen_data:
                floor = floor_scale(scale.view(-1), bias, source.calculate_qparams()[0].reshape(()))
                scale = floor.view(scale.shape)
            if limit:
                scale = scale * self._stretch_of(rounded, scale, low, high, limit)
            rounded.mul_(scale.reciprocal())
            levels = limit_levels(rounded, limit) if limit else rounded  # type: ignore[arg-type]
            levels.round_()
            if self._clips:
                levels.clamp_(low, high)
            torch.mul(levels, scale, out=rounded)
        return rounded

    def _round_learned(self, rows: Tensor, bias: Tensor | None, source: Any) -> Tensor:
        """A weight whose step is learned and whose integers no limit of pairs holds down; see ``_round_at_once``."""
        fake: Any = self.fake
        low, high, _ = self._limits
        with torch.no_grad():
            scale = fake.step
            if bias is not None and source is not None and source.has_seen_data:
                scale = floor_scale(scale, bias, source.calculate_qparams()[0].reshape(()))
            along = scale.view(-1, *[1] * (rows.dim() - 1))
            levels = (rows * along.reciprocal()).round_().clamp_(low, high)
            rounded = levels * along
        return RoundedWeight.apply(rows, rounded, levels, scale, fake.scale, fake.quant_max)  # type: ignore[no-untyped-call,no-any-return]

    def _settle(self) -> None:
        """Write down the range of the weight as it was last, batch norm folded: what stays when observers are off."""
        if self._pending is not None:
            reach, norm = self._pending
            self._pending = None
            reach = reach.view(-1)
            self.fake.take_reach(reach if norm is None else reach * _factor(norm).abs())

    def _count(self) -> None:
        if self.training and not runs_again() and is_on(self.fake, "observer_enabled"):
            if self.uses.item() % _STRETCH_EVERY == 0:
                self.stretch.zero_()
            self.uses.add_(1)

    def _stretch_of(self, weight: Tensor, scale: Tensor, low: int, high: int, order: str) -> Tensor:
        if not self._is_stretched(scale.numel()):
            found = choose_stretch(weight, scale, low, high, order).reshape(-1)  # type: ignore[arg-type]
            if found.shape == self.stretch.shape:
                self.stretch.copy_(found)
            else:
                self.stretch = found
        return self.stretch.view(scale.shape)

    def _is_stretched(self, scales: int) -> bool:
        return self.stretch.numel() == scales > 0 and self.stretch[0].item() != 0

    def frozen(self, unit: Unit, folded: FloatWeight, input_scale: Tensor | None = None) -> QuantizedWeight:
        """The final integers; what this module rounds with is not changed.

        Args:
            unit: as it is converted, maybe with another kernel than the one trained for.
            folded: its float weight and bias.
            input_scale: float32 [], scale of the activation it reads; None when that is quantized as it arrives.
        """
        self._settle()
        own = copy.deepcopy(self).eval()
        return quantize_unit(unit, folded, own.fake, input_scale, stretch=own._stretch_of)

    def freeze_batch_norm(self, frozen: bool = True) -> None:
        """Fold batch norms in training too, with the statistics they have, or let them learn again."""
        self.batch_norm_frozen.fill_(int(frozen))

    def _save_to_state_dict(self, *args: Any) -> None:
        self._settle()
        super()._save_to_state_dict(*args)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Takes on the saved number of channels before values are copied."""
        self._pending = None
        saved = state_dict.get(f"{prefix}stretch")
        if isinstance(saved, Tensor) and saved.shape != self.stretch.shape:
            self.stretch = torch.empty(saved.shape, device=self.stretch.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _terms(norm: Any) -> dict[str, Any]:
    """Arguments of the folding functions."""
    tensors = {"running_mean": norm.running_mean, "running_var": norm.running_var}
    return {**tensors, "gamma": norm.weight, "beta": norm.bias, "eps": norm.eps}


def _factor(norm: Any) -> Tensor:
    """What the running statistics of a batch norm will multiply weights with, [C], without gradient."""
    with torch.no_grad():
        factor: Tensor = (norm.running_var + norm.eps).rsqrt_()
        gamma = norm.weight
        if gamma is None:
            return factor
        small = gamma.abs() < _SMALLEST_GAMMA
        return factor.mul_(gamma.masked_fill(small, 1.0))


def _along_inputs(factor: Tensor, rows: Tensor, groups: int) -> Tensor:
    """One factor per input channel, [C_in], shaped to multiply [C_out, C_in/groups, *k]."""
    taps = [1] * (rows.dim() - 2)
    per_group = factor.reshape(groups, 1, -1).expand(-1, rows.shape[0] // groups, -1)
    return per_group.reshape(rows.shape[0], -1, *taps)
