"""Converted models under ``torch.use_deterministic_algorithms``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import fxquant

ENGINES = [name for name in ("x86", "fbgemm", "onednn") if name in torch.backends.quantized.supported_engines]


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6), (6,)])
def test_linears_give_the_same_numbers(engine: str, shape: tuple[int, ...], request: pytest.FixtureRequest) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5)).eval()
    x = torch.randn(shape)
    quantized = fxquant.quantize(model, [x], example_inputs=(x,), backend=engine, progress=False)
    assert fxquant.explain(quantized).counts["int8"] == 2
    expected = quantized(x)
    request.getfixturevalue("deterministic")
    assert torch.equal(quantized(x), expected)
