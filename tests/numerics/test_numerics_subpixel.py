"""A transposed convolution rewritten as an ordinary one computes the same numbers, whatever its arguments."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fxquant.numerics.conv_geometry import input_rows, output_rows
from fxquant.numerics.subpixel import TransposedGeometry, subpixel

TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
ORDINARY = (F.conv1d, F.conv2d, F.conv3d)


@st.composite
def geometries(draw: st.DrawFn) -> TransposedGeometry:
    """Arguments that torch takes: output padding is smaller than the stride or the dilation."""
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    stride, dilation = each(1, 4), each(1, 4)
    extra = tuple(draw(st.integers(0, max(pair) - 1)) for pair in zip(stride, dilation, strict=True))
    return TransposedGeometry(each(1, 4), stride, each(0, 5), extra, dilation, draw(st.integers(1, 3)))


@settings(deadline=None, max_examples=300)
@given(geometries(), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))
def test_same_numbers(geometry: TransposedGeometry, c_in: int, c_out: int, size: int, batch: int) -> None:
    """Weight, bias and interleaving together are the transposed convolution, exactly, on integers in float64."""
    rank, sizes = len(geometry.kernel), (size,) * len(geometry.kernel)
    assume(min(geometry.output_size(sizes)) > 0)
    x = torch.randint(-8, 8, (batch, c_in * geometry.groups, *sizes)).double()
    weight = torch.randint(-8, 8, (c_in * geometry.groups, c_out, *geometry.kernel)).double()
    bias = torch.randint(-8, 8, (c_out * geometry.groups,)).double()
    expected = TRANSPOSED[rank - 1](
        x, weight, bias, geometry.stride, geometry.padding, geometry.output_padding, geometry.groups, geometry.dilation
    )
    made = subpixel(geometry)
    phases = ORDINARY[rank - 1](
        x, made.weight(weight), made.per_channel(bias), 1, made.padding, made.dilation, geometry.groups
    )
    actual = made.interleave(phases, geometry.output_size(sizes))
    assert actual.shape == expected.shape
    assert torch.equal(actual, expected)


def test_a_smaller_output_padding_is_cut() -> None:
    """A layout for the largest output padding serves every smaller one."""
    geometry = TransposedGeometry((3,), (3,), (2,), (2,), (1,), 1)
    x, weight = torch.randn(2, 4, 5).double(), torch.randn(4, 6, 3).double()
    made = subpixel(geometry)
    phases = F.conv1d(x, made.weight(weight), None, 1, made.padding, made.dilation)
    for extra in range(3):
        actual = made.interleave(phases, geometry.output_size((5,), (extra,)))
        expected = F.conv_transpose1d(x, weight, None, 3, 2, extra)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_upsampling_wastes_no_taps() -> None:
    """4x4 taps with a stride of 2 are 2x2 taps in four phases."""
    made = subpixel(TransposedGeometry((4, 4), (2, 2), (1, 1), (0, 0), (1, 1), 1))
    assert made.weight(torch.ones(3, 5, 4, 4)).shape == (20, 3, 2, 2)
    assert bool((made.weight(torch.ones(3, 5, 4, 4)) == 1).all())


def test_rows_and_back() -> None:
    """Each output channel's weights lie in its row, grouped or not."""
    weight = torch.randn(6, 4, 3, 2)
    for groups in (1, 2, 3):
        rows = output_rows(weight, groups)
        assert rows.shape == (4 * groups, 6 // groups, 3, 2)
        assert torch.equal(input_rows(rows, groups), weight)
        assert torch.equal(rows[-1, 0], weight[6 - 6 // groups, -1])
