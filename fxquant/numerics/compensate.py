"""Rounding of weights that makes up for the error of one weight in those that come after it.

What a weight's error does to a layer's output depends on what the layer reads: errors of weights whose inputs move
together can cancel. Weights are rounded one input at a time, and what the rounding of one changes in the output is
taken out, as far as it can be, by moving the weights not yet rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fxquant.numerics.pair_limit import PAIR_LIMIT, PairOrder

_DAMPING = 0.003
"""Share of the mean variance added to every variance; GPTQ (see ``round_compensating``, section 3.3) takes 0.01, which
measured 0 to 0.15 dB less (``benchmarks/accuracy.py``)."""

_LARGEST_DAMPING = 1.0
_TOGETHER = 64
"""Inputs whose rounding is made up for one by one before the rest is moved by one product of matrices."""


@dataclass(frozen=True)
class InputCorrelations:
    """How the inputs of a convolution or linear move together.

    The covariance of input ``c`` at tap ``a`` and ``d`` at tap ``b`` is taken to be ``taps[a, b] * channels[c, d]``.

    Attributes:
        channels: float [C_in, C_in], covariance of the input channels at one place; None takes them for independent and
            alike, as within the groups of a grouped convolution.
        taps: float [T, T], correlation of one channel's values at the taps of the kernel; [1, 1] for linear.

    Source: R. Grosse and J. Martens, "A Kronecker-factored approximate Fisher matrix for convolution layers", ICML
    2016, https://arxiv.org/abs/1602.01407 (covariances that factor into channels and places).
    """

    channels: Tensor | None
    taps: Tensor


def round_compensating(
    weight: Tensor,
    scale: Tensor,
    nearest: Tensor,
    quant_min: int,
    quant_max: int,
    inputs: InputCorrelations,
    order: PairOrder | None = None,
) -> Tensor:
    """Integers of a weight whose errors change the layer's output little.

    Args:
        weight: [C_out, C_in/groups, *k] float.
        scale: [C_out] or one element, positive. The zero point is 0.
        nearest: int8 of ``weight``'s shape, another rounding to ``scale``; kept for output channels that it suits.
        quant_min: smallest integer, at least -128.
        quant_max: largest integer, at most 127.
        inputs: how the inputs move together.
        order: of the pairs that must stay inside ``PAIR_LIMIT`` (see ``limit_pairs``), None when nothing limits them.

    Returns:
        int8 of ``weight``'s shape.

    Source: E. Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
    2022, https://arxiv.org/abs/2210.17323, algorithm 1; the matrix along whose Cholesky factor it walks is a Kronecker
    product here, and so are its inverse and that factor.
    """
    if weight.numel() == 0:
        return nearest
    outputs, channels = weight.shape[:2]
    levels = weight.detach().to(torch.float32) / scale.to(torch.float32).reshape(-1, *(1,) * (weight.dim() - 1))
    given = levels.reshape(outputs, channels, -1).permute(0, 2, 1).contiguous()  # [C_out, T, C_in/groups]
    along = None if inputs.channels is None else _factor(inputs.channels)
    across = _factor(inputs.taps)
    rounded = _Rounding(given.clone(), along, across, quant_min, quant_max, order).run()
    before = nearest.to(torch.float32).reshape(outputs, channels, -1).permute(0, 2, 1)
    better = _cost(rounded - given, inputs) < _cost(before - given, inputs)
    chosen = torch.where(better[:, None, None], rounded, before)
    return chosen.permute(0, 2, 1).reshape(weight.shape).to(torch.int8).contiguous()


class _Rounding:
    """Rounds [C_out, T, C] levels tap by tap, channel by channel.

    Args:
        levels: float32; moved while it is rounded.
        along: [C, C] upper factor for channels, None for the identity.
        across: [T, T] upper factor for taps.
    """

    def __init__(
        self, levels: Tensor, along: Tensor | None, across: Tensor, low: int, high: int, order: PairOrder | None
    ) -> None:
        self.levels, self.along, self.across, self.order = levels, along, across, order
        self.low, self.high = float(low), float(high)
        self.rounded = torch.zeros_like(levels)

    def run(self) -> Tensor:
        """The integers, float32 [C_out, T, C]."""
        taps = self.levels.shape[1]
        for tap in range(taps):
            errors = self._round_tap(tap)
            if tap + 1 < taps:
                moved = errors if self.along is None else errors @ self.along
                shares = self.across[tap, tap + 1 :] / self.across[tap, tap]
                self.levels[:, tap + 1 :] -= shares[None, :, None] * moved[:, None, :]
        return self.rounded

    def _round_tap(self, tap: int) -> Tensor:
        """Round one tap; errors in units of the factor's diagonal, float32 [C_out, C]."""
        given, channels = self.levels[:, tap], self.levels.shape[2]
        if self.along is None:
            first = tap * channels % 2 if self.order == "taps_then_channels" else 0
            for parity in (first, 1 - first):
                self._round(tap, slice(parity, channels, 2))
            return given - self.rounded[:, tap]
        errors = torch.empty_like(given)
        for start in range(0, channels, _TOGETHER):
            stop = min(start + _TOGETHER, channels)
            for channel in range(start, stop):
                one = slice(channel, channel + 1)
                self._round(tap, one)
                error = (given[:, one] - self.rounded[:, tap, one]) / self.along[channel, channel]
                errors[:, one] = error
                given[:, channel + 1 : stop].addcmul_(
                    error, self.along[channel : channel + 1, channel + 1 : stop], value=-1
                )
            if stop < channels:
                given[:, stop:] -= errors[:, start:stop] @ self.along[start:stop, stop:]
        return errors

    def _round(self, tap: int, channels: slice) -> None:
        """Round some channels of a tap, all of them first or all of them second members of their pairs."""
        made = self.levels[:, tap, channels].round().clamp_(self.low, self.high)
        partner = self._partner(tap, channels)
        if partner is not None:
            made = torch.minimum(
                torch.maximum(made, -PAIR_LIMIT - partner.clamp(max=0)), PAIR_LIMIT - partner.clamp(min=0)
            )
        self.rounded[:, tap, channels] = made

    def _partner(self, tap: int, channels: slice) -> Tensor | None:
        """The integers rounded before that pair up with these, None for first members."""
        count, first = self.levels.shape[2], channels.start
        if self.order is None:
            return None
        if self.order == "channels":
            return self.rounded[:, tap, first - 1 : channels.stop - 1 : channels.step] if first % 2 else None
        flat = self.rounded.view(len(self.rounded), -1)
        start, stop = tap * count + first, tap * count + channels.stop
        return flat[:, start - 1 : stop - 1 : channels.step] if start % 2 else None


def _factor(covariance: Tensor) -> Tensor:
    """The upper Cholesky factor of the damped inverse, float32."""
    given = covariance.detach().to(device="cpu", dtype=torch.float64)
    identity = torch.eye(len(given), dtype=torch.float64)
    size = float(given.diagonal().mean())
    damping = _DAMPING
    while size > 0 and damping <= _LARGEST_DAMPING:
        lower, failed = torch.linalg.cholesky_ex(given + identity * (damping * size))
        if not int(failed):
            upper: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(lower) * size, upper=True)
            return upper.to(torch.float32)
        damping *= 10  # estimates from samples need not be positive definite
    return identity.to(torch.float32)


def _cost(errors: Tensor, inputs: InputCorrelations) -> Tensor:
    """[C_out] expected squared error of the output, for errors [C_out, T, C]."""
    seen = errors if inputs.channels is None else errors @ inputs.channels.to(torch.float32)
    return (torch.einsum("st,otc->osc", inputs.taps.to(torch.float32), seen) * errors).flatten(1).sum(1)
