"""Shared by the operator tests."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tensors are tiny: waiting for threads would take three times as long as the work."""
    torch.set_num_threads(1)
