"""What lies in memory that nobody wrote is never observed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.inspect.agreement import check_agreement
from fxquant.numerics.sqnr import sqnr_db


class Rotates(nn.Module):
    """Fills a tensor half by half, between linears."""

    def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.make = nn.Linear(8, 8), nn.Linear(8, 8), make

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        out = self.make(x)
        out[..., 0::2] = -x[..., 1::2]
        out[..., 1::2] = x[..., 0::2]
        result: Tensor = self.last(out)
        return result


@pytest.mark.parametrize(
    "make",
    [
        lambda x: torch.empty(4, 5, 8),
        lambda x: torch.empty(*x.shape, dtype=x.dtype, device=x.device),
        lambda x: torch.empty(x.shape),
        torch.empty_like,
        lambda x: torch.empty_like(x, memory_format=torch.contiguous_format),
        lambda x: x.new_empty(x.shape),
        lambda x: x.new_empty(4, 5, 8),
    ],
)
def test_halves_that_are_written_later(make: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, x = Rotates(make).eval(), torch.randn(4, 5, 8)
    torch.use_deterministic_algorithms(True)  # fills such memory with NaN
    try:
        observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping("x86"), (x,))
        observed(x)
        reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
        assert not check_agreement(reference, quantized, x).violations
        assert sqnr_db(model(x).detach(), quantized(x)) > 32
    finally:
        torch.use_deterministic_algorithms(False)
    counts = fxquant.explain(quantized).counts
    assert counts["float"] == counts["step"] == 0
