"""Shared by all tests: determinism."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
import torch


def pytest_configure() -> None:
    """Collect garbage rarely: every collection goes through all that was imported, which stays anyway.

    Processes that tests start run on one thread, as the tests do.
    """
    gc.set_threshold(50_000, 20, 50)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Every test starts from the same random state, on one thread, and leaves the engine as it found it."""
    torch.default_generator.manual_seed(0)
    engine = torch.backends.quantized.engine
    torch.set_num_threads(1)  # most tensors are tiny: waiting for threads takes longer than the work
    yield
    assert torch.backends.quantized.engine == engine, "the test changed torch.backends.quantized.engine"
