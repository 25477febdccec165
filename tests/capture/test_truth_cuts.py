"""Truth values and None that sizes decide in one statement, and that decide in another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import pipeline
from fxquant.errors import FxquantError
from fxquant.ir.float_part import FloatPart

Way = Callable[["Pads", Tensor, int, int], Tensor]
SIZES = ((8, 8), (7, 8), (8, 7), (7, 7), (9, 12))


class Pads(nn.Module):
    """A convolution with stride two behind what makes sizes even."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.conv, self.way = nn.Conv2d(3, 4, 2, 2), way

    def is_odd(self, height: int, width: int) -> bool:
        return height % 2 == 1 or width % 2 == 1

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x, x.shape[2], x.shape[3])


def in_a_name(self: Pads, x: Tensor, height: int, width: int) -> Tensor:
    pad_input = (height % 2 == 1) or (width % 2 == 1)
    if pad_input:
        x = F.pad(x, (0, width % 2, 0, height % 2))
    y: Tensor = self.conv(x)
    return y


def unless(self: Pads, x: Tensor, height: int, width: int) -> Tensor:
    even = height % 2 == 0 and width % 2 == 0
    rows = x.shape[0]
    if not even:
        x = F.interpolate(x, size=(height + height % 2, width + width % 2)).view(rows, 3, -1, width + width % 2)
    y: Tensor = self.conv(x)
    return y


def none_or_pads(self: Pads, x: Tensor, height: int, width: int) -> Tensor:
    pads = None
    if height % 2 or width % 2:
        pads = (0, width % 2, 0, height % 2)
    if pads is not None:
        x = F.pad(x, pads)
    y: Tensor = self.conv(x)
    return y


def one_or_the_other(self: Pads, x: Tensor, height: int, width: int) -> Tensor:
    pads = (0, width % 2, 0, height % 2) if height % 2 or width % 2 else None
    x = F.pad(x, pads) if pads else x
    y: Tensor = self.conv(x)
    return y


def by_any(self: Pads, x: Tensor, height: int, width: int) -> Tensor:
    odd = any(size % 2 for size in (height, width))
    if odd:
        x = F.pad(x, (0, width % 2, 0, height % 2))
    y: Tensor = self.conv(x)
    return y


def by_a_method(self: Pads, x: Tensor, height: int, width: int) -> Tensor:
    if self.is_odd(height, width):
        x = F.pad(x, (0, width % 2, 0, height % 2))
    y: Tensor = self.conv(x)
    return y


def returns(self: Pads, x: Tensor, height: int, width: int) -> Tensor:
    y: Tensor = self.conv(x)
    odd = height % 2 == 1 or width % 2 == 1
    if odd:
        return y * 2
    return y + 1


@pytest.mark.parametrize("way", [in_a_name, unless, none_or_pads, one_or_the_other, by_any, by_a_method, returns])
@pytest.mark.parametrize("example", SIZES[:4])
def test_what_decides_is_kept_with_what_it_decides(way: Way, example: tuple[int, int]) -> None:
    model = Pads(way).eval()
    captured = pipeline.capture(model, (torch.randn(2, 3, *example),))
    for size in SIZES:
        x = torch.randn(1, 3, *size)
        assert torch.equal(captured(x), model(x)), size


def read_behind_weights(self: Pads, x: Tensor, height: int, width: int) -> Tensor:
    odd = height % 2 > 0 or width % 2 > 0
    if odd:
        x = F.pad(x, (0, width % 2, 0, height % 2))
    y: Tensor = self.conv(x)
    return y * 2 if odd else y


def is_causal(self: Pads, x: Tensor, height: int, width: int) -> Tensor:
    causal = height > 7 and width > 7
    y = x.flatten(1, 2) @ self.conv.weight.flatten()[: x.shape[-1]].expand(x.shape[-1], -1)
    return F.scaled_dot_product_attention(y, y, y, is_causal=causal)


def caught(self: Pads, x: Tensor, height: int, width: int) -> Tensor:
    try:
        x = x + x[:, :, :, 7].mean()
        is_long = True
    except IndexError:
        is_long = False
    y: Tensor = self.conv(x) if is_long else self.conv(x) * 2
    return y


def _parts(captured: nn.Module) -> list[FloatPart]:
    return [module for module in captured.modules() if isinstance(module, FloatPart)]


@pytest.mark.parametrize("way", [read_behind_weights, is_causal, caught])
@pytest.mark.parametrize("example", SIZES[:4])
def test_what_would_be_int8_is_not_kept_with_it(way: Way, example: tuple[int, int]) -> None:
    model = Pads(way).eval()
    captured = pipeline.capture(model, (torch.randn(2, 3, *example),))
    assert not any("matmul" in str(part.code.source) or "@" in str(part.code.source) for part in _parts(captured))
    for size in SIZES:
        x = torch.randn(1, 3, *size)
        try:
            assert torch.equal(captured(x), model(x)), size
        except FxquantError:
            assert size != example


class Looks(nn.Module):
    """Positions from a table, for one size as they are, for others resized."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table = nn.Conv2d(3, 4, 2, 2), nn.Embedding(16, 4)
        self.register_buffer("ids", torch.arange(16))

    def positions(self, y: Tensor) -> Tensor:
        if y.shape[1] == self.table.num_embeddings:
            return self.table(self.ids)
        grid = self.table.weight.t().reshape(1, 4, 4, 4)
        height = width = int(y.shape[1] ** 0.5)
        return F.interpolate(grid, size=(height, width), mode="bilinear").flatten(2).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).flatten(2).transpose(1, 2)
        z: Tensor = y + self.positions(y)
        return z


@pytest.mark.parametrize("example", [8, 12])
def test_tables_do_not_keep_a_statement_from_running_as_python(example: int) -> None:
    model = Looks().eval()
    captured = pipeline.capture(model, (torch.randn(2, 3, example, example),))
    for size in (8, 6, 16):
        x = torch.randn(1, 3, size, size)
        assert torch.equal(captured(x), model(x)), size
