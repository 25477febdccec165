"""Models traced by ``torch.jit``: right under whatever engine torch is set to when they are loaded.

Worst-case inputs: activations near the top of their range, weights of one sign.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.backends.native.kernels.traced import loads_anywhere

SUPPORTED = torch.backends.quantized.supported_engines
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "depthwise": (nn.Conv2d(33, 33, 3, padding=1, groups=33), (3, 33, 9, 9)),
    "depthwise, several out": (nn.Conv2d(5, 15, 3, groups=5), (3, 5, 9, 9)),
    "depthwise 1d": (nn.Conv1d(16, 16, 5, groups=16), (3, 16, 13)),
    "depthwise 3d": (nn.Conv3d(8, 8, 3, groups=8), (3, 8, 5, 5, 5)),
    "odd channels": (nn.Conv2d(3, 8, 7, stride=2, padding=3), (3, 3, 17, 17)),
    "odd channels, padded unevenly": (nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3)), (3, 3, 9, 9)),
    "odd channels, relu": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (3, 3, 9, 9)),
    "odd channels 1d": (nn.Conv1d(3, 8, 3), (3, 3, 13)),
    "transposed 2x2": (nn.ConvTranspose2d(8, 8, 2, 2), (3, 8, 5, 5)),
    "transposed, odd channels": (nn.ConvTranspose2d(5, 7, 3, 2, 1, 1), (3, 5, 5, 5)),
    "transposed, depthwise": (nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=8), (3, 8, 5, 5)),
    "linear": (nn.Linear(63, 8), (5, 63)),
}


@contextmanager
def _engine(name: str) -> Iterator[None]:
    before, torch.backends.quantized.engine = torch.backends.quantized.engine, name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def _quantized(name: str, engine: str) -> tuple[fxquant.QuantizedModel, Tensor]:
    torch.manual_seed(0)
    layer, shape = LAYERS[name]
    for parameter in layer.parameters():
        if parameter.dim() > 1:  # one large weight among smaller ones of its sign
            sign = torch.where(torch.arange(parameter.shape[0]) % 2 == 0, 1.0, -1.0)
            parameter.data = torch.rand_like(parameter) * sign.reshape(-1, *[1] * (parameter.dim() - 1))
    x = torch.rand(shape) * 0.1 + 0.9
    quantized = fxquant.quantize(nn.Sequential(layer).eval(), [x], backend=engine, progress=False)
    return quantized, torch.rand((shape[0] + 1, *shape[1:])) * 0.1 + 0.9


def _saved(quantized: nn.Module, x: Tensor) -> io.BytesIO:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit itself
        # torch's own comparison wants equal floats; the tests count quanta.
        torch.jit.save(torch.jit.trace(quantized, x, check_trace=False), file)
    return file


def _loaded(file: io.BytesIO, engine: str) -> nn.Module:
    file.seek(0)
    with warnings.catch_warnings(), _engine(engine):
        warnings.simplefilter("ignore", DeprecationWarning)
        loaded: nn.Module = torch.jit.load(file)
        return loaded


def _quanta(quantized: fxquant.QuantizedModel, actual: Tensor, expected: Tensor) -> Tensor:
    scales = [value for key, value in quantized.state_dict().items() if key.endswith(".scale") and value.dim() == 0]
    return ((actual - expected) / scales[-1]).round().abs()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("engine", [name for name in ("x86", "onednn") if name in SUPPORTED])
def test_no_overflow_under_another_engine(name: str, engine: str) -> None:
    quantized, x = _quantized(name, engine)
    expected = quantized(x)
    file = _saved(quantized, x[1:])
    for other in ("x86", "fbgemm", "onednn"):
        quanta = _quanta(quantized, _loaded(file, other)(x), expected)
        assert quanta.max() <= 1 and int((quanta > 0).sum()) <= max(2, quanta.numel() // 500)


@pytest.mark.skipif("qnnpack" not in SUPPORTED, reason="needs the engine")
def test_weights_for_qnnpack_need_it_when_loaded() -> None:
    """There is no other engine on its devices; elsewhere a warning says so."""
    quantized, x = _quantized("depthwise", "qnnpack")
    with pytest.warns(UserWarning, match=r"torch\.backends\.quantized\.engine = 'qnnpack' before loading"):
        file = _saved(quantized, x[1:])
    assert torch.equal(_loaded(file, "qnnpack")(x), quantized(x))


def test_which_weights_are_right_everywhere() -> None:
    pairs = torch.tensor([[100, 28, 127, 1], [64, 64, -128, 127]], dtype=torch.int8).reshape(2, 4, 1, 1)
    assert loads_anywhere(pairs, 1)
    assert not loads_anywhere(pairs + torch.tensor(1, dtype=torch.int8), 1)
    across_taps = (
        torch.tensor([1, 2, 100, 100, 1, 2], dtype=torch.int8).reshape(1, 2, 3, 1).movedim(1, 2)
    )  # 3 in, 2 taps
    assert not loads_anywhere(across_taps.reshape(1, 3, 2, 1), 1)
    taps = torch.tensor([64, 0, 65], dtype=torch.int8).reshape(1, 1, 3, 1)
    assert loads_anywhere(taps - torch.tensor(1, dtype=torch.int8), 2) and not loads_anywhere(taps, 2)
