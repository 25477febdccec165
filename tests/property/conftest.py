"""The generator of random networks lives with the benchmarks."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tensors are tiny: waiting for threads would take three times as long as the work."""
    torch.set_num_threads(1)
