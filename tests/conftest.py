"""Shared by all tests: determinism."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Every test starts from the same random state and leaves threads and engine as it found them."""
    torch.manual_seed(0)
    engine, threads = torch.backends.quantized.engine, torch.get_num_threads()
    yield
    assert torch.backends.quantized.engine == engine, "the test changed torch.backends.quantized.engine"
    torch.set_num_threads(threads)
