"""Files of TorchScript pack weights anew where they are loaded, for the engine that is set there; they stay right."""

from __future__ import annotations

import io
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.numerics.sqnr import sqnr_db

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
ENGINES = [name for name in torch.backends.quantized.supported_engines if name in ("x86", "fbgemm")]


def loaded(model: nn.Module, x: Tensor) -> Any:
    """The model traced, saved and loaded."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(model, x), file)  # type: ignore[no-untyped-call]
        file.seek(0)
        return torch.jit.load(file)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("worst", [True, False])
@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(8, 8, 3, groups=8), (1, 8, 9, 9)), (nn.Conv2d(3, 8, 3), (1, 3, 9, 9)),
        (nn.Conv1d(5, 8, 3, padding="same"), (1, 5, 9)), (nn.Conv2d(6, 8, 3, groups=2), (1, 6, 9, 9)),
        (nn.Conv3d(8, 8, 3, groups=8), (1, 8, 5, 5, 5)), (nn.Linear(7, 5), (4, 7)),
        (nn.ConvTranspose2d(8, 8, 2, 2), (1, 8, 9, 9)), (nn.ConvTranspose2d(3, 8, 3, 2), (1, 3, 9, 9)),
        (nn.ConvTranspose1d(8, 8, 3, 2, output_padding=1, groups=8), (1, 8, 9)),
        (nn.ConvTranspose2d(8, 12, 3, 2, groups=4), (1, 8, 9, 9)), (nn.ConvTranspose3d(4, 4, 2, 2), (1, 4, 4, 4, 4)),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_loaded_files_compute_the_same(module: Any, shape: tuple[int, ...], worst: bool, engine: str) -> None:
    x = torch.rand(shape) * 0.1 + 0.9 if worst else torch.randn(shape)
    nn.init.uniform_(module.weight, 0.9, 1.0) if worst else nn.init.normal_(module.weight)
    quantized = fxquant.quantize(nn.Sequential(module, nn.ReLU()).eval(), [x], progress=False)
    previous = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        assert sqnr_db(quantized(x), loaded(quantized, x)(x)) > 60
    finally:
        torch.backends.quantized.engine = previous
