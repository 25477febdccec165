"""A transposed convolution as an ordinary one with more output channels, whose results are interleaved.

Tap k of a transposed convolution adds ``x[i] * w[k]`` to the output at ``i*stride + k*dilation - padding``. All taps
with the same ``phase = k*dilation mod stride`` reach the same outputs, those at ``phase`` past a multiple of the
stride; there they are an ordinary convolution of stride 1. One convolution computes every phase, as channels of its
own; the phases are then put beside each other, and what the padding cuts off is cut.

No product is wasted on inserted zeros where the stride divides the kernel, as in upsampling by 2x2 or 4x4 taps.

Source: Shi et al. 2016, https://arxiv.org/abs/1609.07009, "Is the deconvolution layer the same as a convolutional
layer?"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from torch import Tensor

from fxquant.numerics.conv_geometry import output_rows

_ALL = slice(None)


@dataclass(frozen=True)
class TransposedGeometry:
    """The arguments of a transposed convolution, one integer per spatial dimension each.

    Attributes:
        kernel: taps.
        stride, padding, output_padding, dilation: as in ``torch.nn.ConvTranspose2d``.
        groups: of the convolution.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def output_size(self, sizes: Sequence[int], output_padding: Sequence[int] | None = None) -> tuple[int, ...]:
        """Spatial sizes of the output.

        Args:
            sizes: spatial sizes of the input.
            output_padding: where it is another than the geometry's.

        Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.ConvTranspose2d.html, "Shape".
        """
        extras = self.output_padding if output_padding is None else output_padding
        each = zip(sizes, self.kernel, self.stride, self.padding, extras, self.dilation, strict=True)
        return tuple((n - 1) * s - 2 * p + d * (k - 1) + extra + 1 for n, k, s, p, extra, d in each)


@dataclass(frozen=True)
class Subpixel:
    """The ordinary convolution, and how its phases make the output.

    Attributes:
        of: the transposed convolution.
        kernel: taps, padding: symmetric amounts, dilation: all of the ordinary convolution, whose stride is 1.
        skip: interleaved elements to leave out at the start of each dimension.
    """

    of: TransposedGeometry
    kernel: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    skip: tuple[int, ...]

    @property
    def phases(self) -> int:
        """Output channels of the ordinary convolution for each of the transposed one."""
        return prod(self.of.stride)

    def weight(self, transposed: Tensor) -> Tensor:
        """The ordinary convolution's weight.

        Args:
            transposed: [C_in, C_out/groups, *kernel], any dtype.

        Returns:
            [groups * phases * C_out/groups, C_in/groups, *kernel of the ordinary one].
        """
        groups = self.of.groups
        rows = output_rows(transposed, groups)
        rows = rows.reshape(groups, -1, *rows.shape[1:])
        made = rows.new_zeros((groups, *self.of.stride, *rows.shape[1:3], *self.kernel))
        for tap in product(*(range(size) for size in self.of.kernel)):
            steps = [divmod(k * d, s) for k, d, s in zip(tap, self.of.dilation, self.of.stride, strict=True)]
            phase = tuple(rest for _, rest in steps)
            places = zip(self.kernel, self.dilation, steps, strict=True)
            place = tuple(size - 1 - shift // step for size, step, (shift, _) in places)
            source: tuple[int | slice, ...] = (_ALL, _ALL, _ALL, *tap)
            target: tuple[int | slice, ...] = (_ALL, *phase, _ALL, _ALL, *place)
            made[target] = rows[source]
        return made.flatten(0, len(self.kernel) + 1)

    def per_channel(self, values: Tensor) -> Tensor:
        """One value per output channel for the ordinary convolution: [C_out] to [groups * phases * C_out/groups]."""
        groups = self.of.groups
        return values.reshape(groups, 1, -1).repeat(1, self.phases, 1).reshape(-1)  # packing reads dense memory

    def interleave(self, phases: Tensor, output_size: Sequence[int]) -> Tensor:
        """Put the phases beside each other.

        Args:
            phases: [N, groups * phases * C_out/groups, *S], the ordinary convolution's output, any dtype.
            output_size: spatial sizes of the transposed convolution's output, no larger than with the output padding
                of its geometry.

        Returns:
            [N, C_out, *output_size], a view with channels last.
        """
        rank, stride, groups = len(output_size), self.of.stride, self.of.groups
        last = phases.movedim(1, -1)
        channels = last.shape[-1] // (groups * self.phases)
        parts = last.reshape(*last.shape[:-1], groups, *stride, channels)
        beside = [axis for i in range(rank) for axis in (1 + i, 2 + rank + i)]
        placed = parts.permute(0, *beside, 1 + rank, 2 + 2 * rank)
        spatial = [size * step for size, step in zip(last.shape[1:-1], stride, strict=True)]
        whole = placed.reshape(last.shape[0], *spatial, groups * channels)
        for axis, length in enumerate(output_size, start=1):
            whole = whole.narrow(axis, self.skip[axis - 1], length)
        return whole.movedim(-1, 1)


def subpixel(geometry: TransposedGeometry) -> Subpixel:
    """The ordinary convolution that computes what a transposed one computes."""
    g = geometry
    each = zip(g.kernel, g.stride, g.padding, g.output_padding, g.dilation, strict=True)
    kernel, padding, dilation, skip = zip(*(_along(*values) for values in each), strict=True)
    return Subpixel(geometry, kernel, padding, dilation, skip)


def _along(kernel: int, stride: int, padding: int, output_padding: int, dilation: int) -> tuple[int, int, int, int]:
    """(taps, padding, dilation, elements to skip) of one dimension.

    With ``m = (kernel-1)*dilation // stride`` the last shift of a tap, padding by m on both sides gives all outputs
    from the first. Each element less saves a multiple of the stride at the start, and costs one at the end: ``saved``
    is the most that still reaches the last output.
    """
    reach = (kernel - 1) * dilation
    shift, step = reach // stride, dilation // stride if dilation % stride == 0 else 1
    spare = (stride - 1 + padding - reach - output_padding) // stride
    saved = min(shift, padding // stride, shift + spare)
    return shift // step + 1, shift - saved, step, padding - saved * stride
