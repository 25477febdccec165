"""Average pooling: the same integers whatever the process' current engine, within a tie of the exact mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.backends.native.kernels.averaging import average_pool
from fxquant.numerics.sqnr import sqnr_db

ENGINES = [name for name in torch.backends.quantized.supported_engines if name != "none"]


class Pooled(nn.Module):
    """A convolution and a pooling."""

    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(4, 4, 1), pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(x))


@pytest.mark.parametrize(
    "pool",
    [
        lambda y: F.avg_pool2d(y, 2),
        lambda y: F.avg_pool2d(y, 3, 2, 1, count_include_pad=False),
        lambda y: F.avg_pool2d(y, 3, 2, divisor_override=5),
        lambda y: F.adaptive_avg_pool2d(y, 3),
        lambda y: F.adaptive_avg_pool2d(y, (4, 1)),
        lambda y: F.adaptive_avg_pool2d(y, 1),
        lambda y: F.avg_pool1d(y.flatten(2), 4),
        lambda y: F.avg_pool3d(y, 2),
    ],
)
def test_averages_do_not_depend_on_the_current_engine(pool: Callable[[Tensor], Tensor]) -> None:
    """torch's own kernels round differently under qnnpack."""
    x, results, before = torch.randn(3, 4, 6, 6), [], torch.backends.quantized.engine
    quantized = fxquant.quantize(Pooled(pool).eval(), [x], progress=False)
    for engine in ENGINES:
        torch.backends.quantized.engine = engine
        results.append(quantized(x))
    torch.backends.quantized.engine = before
    assert len(results) > 1 and all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("zero_point", [0, 3, 128, 255])
@pytest.mark.parametrize(
    "window",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 1, "padding": 1, "count_include_pad": False},
        {"kernel_size": 5, "stride": 2, "padding": 2, "ceil_mode": True},
        {"kernel_size": (2, 3), "divisor_override": 4},
        {"kernel_size": 1},
    ],
)
@pytest.mark.parametrize("shape", [(2, 40, 9, 11), (3, 1, 5, 5), (6, 7, 7), (0, 4, 6, 6), (2, 3, 1, 1)])
def test_average_pool_is_exact_up_to_ties(shape: tuple[int, ...], window: dict[str, Any], zero_point: int) -> None:
    """Means of integers, rounded; a mean half-way between two integers may go to either."""
    integers = torch.randint(0, 256, shape, dtype=torch.uint8)
    x = torch._make_per_tensor_quantized_tensor(integers, 0.1, zero_point)
    if shape[-1] == 1 and window.get("padding", 0) == 0:
        window = {**window, "kernel_size": 1}
    mean = F.avg_pool2d(integers.to(torch.float64) - zero_point, **window) + zero_point
    made = average_pool(x, 2, **window).int_repr().to(torch.float64)
    assert made.shape == mean.shape
    assert bool(((made - mean.clamp(0, 255)).abs() <= 0.5 + 1e-9).all())


@pytest.mark.parametrize("divisor", [1, 2, 5])
def test_a_divisor_of_its_own_has_a_range_of_its_own(divisor: int) -> None:
    """Nine numbers over two are up to 4.5 times as large as the input's range."""
    torch.manual_seed(0)
    net, x = Pooled(lambda y: F.avg_pool2d(y, 3, divisor_override=divisor)).eval(), torch.rand(4, 4, 9, 9)
    quantized = fxquant.quantize(net, [x], progress=False)
    assert {row.outcome for row in fxquant.explain(quantized).rows} == {"int8"}
    assert sqnr_db(net(x).detach(), quantized(x)) > 32
