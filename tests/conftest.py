"""Shared by all tests: determinism."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Every test starts from the same random state, on one thread, and leaves the engine as it found it."""
    torch.manual_seed(0)
    engine = torch.backends.quantized.engine
    torch.set_num_threads(1)  # most tensors are tiny: waiting for threads takes longer than the work
    yield
    assert torch.backends.quantized.engine == engine, "the test changed torch.backends.quantized.engine"
