"""A folder with a model file, data in every form, and the model's quantized file."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy
import pytest
import torch

from fxquant import cli


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds net.py, batches.npy, batches.pt, list.pt and net.fxq."""
    made = tmp_path_factory.mktemp("work")
    shutil.copy(Path(__file__).parent / "small_net.py", made / "net.py")
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    numpy.save(made / "batches.npy", images.numpy())
    torch.save(images, made / "batches.pt")
    torch.save([(images[:8], torch.zeros(8, dtype=torch.int64)), (images[8:], torch.ones(8, dtype=torch.int64))],
               made / "list.pt")  # fmt: skip
    words = [
        "quantize",
        f"{made}/net.py:model",
        "--calibrate",
        f"{made}/batches.npy",
        "-o",
        f"{made}/net.fxq",
        "--quiet",
    ]
    assert cli.main(words) == 0
    return made
