"""Paddings of convolutions as explicit amounts before and after, and kernels grown by zeros to make them even.

Kernels of int8 backends take one symmetric amount per dimension. An uneven pair (left, right) is the same
convolution with symmetric padding ``P = max(left, right)`` and a kernel that has ``P - left`` zeros before and
``P - right`` zeros after its taps: output i reads input ``i·stride + (k + P - left) - P``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Pads:
    """Padding per spatial dimension, first dimension first.

    Attributes:
        before, after: elements added at the start and at the end of each dimension.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def symmetric(self) -> tuple[int, ...]:
        """The symmetric amounts a grown kernel goes with."""
        return tuple(max(pair) for pair in zip(self.before, self.after, strict=True))

    def grown_kernel(self, dilation: Any) -> tuple[tuple[int, int], ...] | None:
        """Zeros to add before and after the taps of each dimension, None when the dilation does not divide them."""
        steps = as_tuple(dilation, len(self.before))
        growth = []
        for left, right, step in zip(self.before, self.after, steps, strict=True):
            most = max(left, right)
            if (most - left) % step or (most - right) % step:
                return None
            growth.append(((most - left) // step, (most - right) // step))
        return tuple(growth)


def as_tuple(value: Any, rank: int) -> tuple[int, ...]:
    """A convolution argument as one integer per dimension: ``2`` and ``(2,)`` mean the same for all."""
    if isinstance(value, (tuple, list)):
        return tuple(value) if len(value) == rank else tuple(value) * rank
    return (int(value),) * rank


def split_pads(bound: Mapping[str, Any], weight_shape: Sequence[int]) -> Pads:
    """Padding of a convolution call, strings included.

    Args:
        bound: its arguments: ``padding`` may be an integer, a tuple, "valid" or "same"; and ``dilation``.
        weight_shape: [C_out, C_in/groups, *kernel].

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv2d.html; "same" puts the odd one after.
    """
    kernel = tuple(weight_shape[2:])
    rank, padding = len(kernel), bound["padding"]
    if padding == "valid":
        return Pads((0,) * rank, (0,) * rank)
    if padding == "same":
        steps = as_tuple(bound["dilation"], rank)
        total = [step * (size - 1) for step, size in zip(steps, kernel, strict=True)]
        return Pads(tuple(t // 2 for t in total), tuple(t - t // 2 for t in total))
    amounts = as_tuple(padding, rank)
    return Pads(amounts, amounts)


def fold_pads(pads: Pads, amounts: Sequence[int]) -> Pads:
    """Add the amounts of an ``F.pad`` (last dimension first, before/after in turn) to a convolution's padding."""
    before, after = list(pads.before), list(pads.after)
    for position in range(len(amounts) // 2):
        dimension = len(before) - 1 - position
        before[dimension] += amounts[2 * position]
        after[dimension] += amounts[2 * position + 1]
    return Pads(tuple(before), tuple(after))


def grow_kernel(weight: Tensor, growth: Sequence[tuple[int, int]]) -> Tensor:
    """Put zeros around the taps.

    Args:
        weight: [C_out, C_in/groups, *kernel], any dtype.
        growth: zeros before and after, per spatial dimension.

    Returns:
        ``weight`` itself when nothing grows.
    """
    if not any(any(pair) for pair in growth):
        return weight
    return F.pad(weight, [zeros for pair in reversed(growth) for zeros in pair])


def output_rows(weight: Tensor, groups: int) -> Tensor:
    """A transposed convolution's weight with one row per output channel, as an ordinary convolution has it.

    Args:
        weight: [C_in, C_out/groups, *kernel], any dtype.
        groups: of the convolution.

    Returns:
        [C_out, C_in/groups, *kernel].
    """
    first, second, *kernel = weight.shape
    return weight.reshape(groups, first // groups, second, *kernel).transpose(1, 2).flatten(0, 1)


def input_rows(rows: Tensor, groups: int) -> Tensor:
    """Undoes ``output_rows``.

    Args:
        rows: [C_out, C_in/groups, *kernel], any dtype.
        groups: of the convolution.

    Returns:
        [C_in, C_out/groups, *kernel], contiguous.
    """
    return output_rows(rows, groups).contiguous()


def per_input_row(values: Tensor, weight_shape: Sequence[int]) -> Tensor:
    """One value per output channel, shaped to multiply a transposed convolution's weight.

    Args:
        values: [C_out], or [C_out/groups] when all groups have the same.
        weight_shape: [C_in, C_out/groups, *kernel].

    Returns:
        [C_in, C_out/groups, 1, ...]. Input channel i belongs to group ``i // (C_in/groups)``, and so do the output
        channels of its row.
    """
    c_in, per_group, *kernel = weight_shape
    groups = values.numel() // per_group
    spread = values.reshape(groups, 1, per_group).expand(groups, c_in // groups, per_group)
    return spread.reshape(c_in, per_group, *[1] * len(kernel))
