"""add and mul with an operand that broadcasts: the shortcut gives the kernel's own integers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fxquant.backends.native.kernels.elementwise import Binary

_SCALE, _ZERO_POINT = 1 / 64, 10


def _quantized(shape: tuple[int, ...], seed: int, channels_last: bool) -> Tensor:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if channels_last and len(shape) == 4:
        numbers = numbers.contiguous(memory_format=torch.channels_last)
    return torch.quantize_per_tensor(numbers, 0.03, 120, torch.quint8)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("name", ["add", "mul"])
@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 20, 17, 16), (2, 20, 1, 1)),
        ((2, 20, 17, 16), (1, 20, 1, 1)),
        ((2, 20, 17, 16), (20, 1, 1)),
        ((2, 64, 16, 16), (2, 64, 1, 1)),
        ((2, 20, 5, 5), (2, 20, 1, 1)),
        ((2, 20, 17, 16), (2, 1, 17, 16)),
        ((2, 20, 17, 16), (16,)),
        ((2, 20, 1, 16), (2, 1, 17, 1)),
        ((0, 20, 17, 16), (1, 20, 1, 1)),
    ],
)
def test_integers_are_those_of_operands_of_full_size(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], name: str, channels_last: bool
) -> None:
    x, y = (_quantized(shape, seed, channels_last) for seed, shape in enumerate(shapes))
    kernel = Binary(name, torch.tensor(_SCALE), torch.tensor(_ZERO_POINT), relu=False)
    whole = torch.broadcast_shapes(*shapes)
    full = [torch._make_per_tensor_quantized_tensor(t.int_repr().expand(whole).contiguous(), 0.03, 120) for t in (x, y)]
    expected = getattr(torch.ops.quantized, name)(*full, _SCALE, _ZERO_POINT)
    for actual in (kernel(x, y), kernel(y, x)):
        assert actual.shape == whole
        assert torch.equal(actual.int_repr(), expected.int_repr())
        assert (actual.q_scale(), actual.q_zero_point()) == (_SCALE, _ZERO_POINT)
