"""Convolutions with int8 weights and an input that is quantized when it arrives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from linears import assert_same, converted, modes, through_file, through_state_dict
from torch import Tensor, nn

import fxquant
from fxquant.backends.native.onednn_convolutions import onednn_is_right
from fxquant.inspect.agreement import check_agreement
from fxquant.numerics.sqnr import sqnr_db

pytestmark = [
    pytest.mark.skipif("onednn" not in torch.backends.quantized.supported_engines, reason="needs onednn"),
    pytest.mark.filterwarnings("ignore:Using padding=.same."),
]
CONVS: list[tuple[int, tuple[int, ...], dict[str, Any]]] = [
    (1, (4, 6, 5), {"stride": 2, "padding": 1}),
    (1, (4, 6, 4), {"padding": "same"}),
    (2, (3, 8, 3), {"bias": False}),
    (2, (8, 8, 3), {"groups": 8, "padding": 1, "stride": 2}),
    (2, (8, 12, 3), {"groups": 2, "dilation": 2, "padding": "same"}),
    (2, (4, 6, (1, 3)), {"padding": (0, 2)}),
    (3, (4, 6, 3), {"padding": 1}),
]


@pytest.mark.parametrize("qconfig", [fxquant.default_dynamic_qconfig, fxquant.per_channel_dynamic_qconfig])
@pytest.mark.parametrize(("rank", "sizes", "arguments"), CONVS)
@torch.no_grad()
def test_convolutions_are_the_reference(
    rank: int, sizes: tuple[Any, ...], arguments: dict[str, Any], qconfig: fxquant.QConfig
) -> None:
    kind: Any = getattr(nn, f"Conv{rank}d")
    model = nn.Sequential(kind(*sizes, **arguments)).eval()
    x = torch.randn(2, sizes[0], *(9,) * rank)
    reference, quantized = converted(model, qconfig, (x,))
    shape, groups = model[0].weight.shape, model[0].groups
    if not onednn_is_right(shape, model[0].dilation, groups):  # onednn's is the only kernel
        assert not modes(quantized) and "AVX-512" in str(fxquant.explain(quantized))
        assert torch.equal(quantized(x), model(x))
        return
    assert list(modes(quantized).values()) == ["dynamic"]
    for given in (x, x[0], x.abs(), -x.abs(), 100 * x, torch.randn(1, sizes[0], *(12,) * rank), x[:0]):
        assert_same(reference(given), quantized(given))
    assert sqnr_db(model(x), quantized(x)) > 28
    assert torch.equal(quantized(x), through_file(quantized)(x))
    assert torch.equal(quantized(x), through_state_dict(quantized)(x))


@pytest.mark.parametrize("rank", [1, 2, 3])
@torch.no_grad()
def test_a_relu_after_a_convolution_of_any_rank(rank: int) -> None:
    model = nn.Sequential(getattr(nn, f"Conv{rank}d")(4, 6, 3), nn.ReLU()).eval()
    x = torch.randn(2, 4, *(8,) * rank)
    reference, quantized = converted(model, fxquant.per_channel_dynamic_qconfig, (x,))
    assert_same(reference(x), quantized(x))
    assert quantized(x).min() == 0 and sqnr_db(model(x), quantized(x)) > 28


class _Around(nn.Module):
    """Padding before, batch norm and relu after, a clip, and code that depends on the layout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.second, self.line = nn.Conv2d(8, 4, 1), nn.Conv1d(4, 3, 3)
        nn.init.uniform_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.first(F.pad(x, (0, 1, 0, 1)))))
        y = self.second(y).clamp(-0.5, 0.5)
        return self.line(y.view(y.shape[0], 4, -1)).view(-1)


@torch.no_grad()
def test_what_is_around_a_convolution() -> None:
    model, x = _Around().eval(), torch.randn(2, 3, 10, 10)
    reference, quantized = converted(model, fxquant.per_channel_dynamic_qconfig, (x,))
    assert set(modes(quantized)) == {"first", "second", "line"}
    assert_same(reference(x), quantized(x))
    assert sqnr_db(model(x), quantized(x)) > 25
    rows = {row.op: row for row in fxquant.explain(quantized).rows}
    assert rows["batch_norm"].outcome == rows["relu"].outcome == "folded"
    assert rows["pad"].outcome == rows["clamp"].outcome == "float"
    assert rows["conv1d"].kernel.startswith("onednn.qconv_pointwise")


@torch.no_grad()
def test_a_folded_batch_norm_is_judged_with_its_convolution() -> None:
    """And what reads it is judged on the numbers of the run, not on the reference's own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)).eval()
    x = torch.randn(2, 3, 10, 10)
    reference, quantized = converted(model, fxquant.per_channel_dynamic_qconfig, (x,))
    rows = check_agreement(reference, quantized, x).rows
    assert [row.op for row in rows] == ["conv2d", "conv2d"] and all(row.agrees for row in rows)
    first = quantized.get_submodule(f"int8.{rows[0].unit}")
    first.bias += 0.1  # the first is wrong then, and the second right on what it is given
    assert [row.agrees for row in check_agreement(reference, quantized, x).rows] == [False, True]


@torch.no_grad()
def test_worst_case_sums_do_not_saturate() -> None:
    for groups in (1, 16):
        net = nn.Sequential(nn.Conv2d(16, 16, 3, groups=groups)).eval()
        nn.init.uniform_(net[0].weight, 0.9, 1.0)
        x = torch.rand(1, 16, 8, 8) * 0.1 + 0.9
        reference, quantized = converted(net, fxquant.per_channel_dynamic_qconfig, (x,))
        assert_same(reference(x), quantized(x))


class _Grid(nn.Module):
    """A convolution of numbers on a grid twice as fine as that of its own rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        return result


@torch.no_grad()
def test_ties_are_no_disagreement() -> None:
    model, generator = _Grid().eval(), torch.Generator().manual_seed(0)
    x = -torch.randint(0, 511, (1, 4, 12, 12), generator=generator) / 2.0
    x[0, 0, 0, 0], x[0, 0, 0, 1] = -255.0, 0.0
    reference, quantized = converted(model, fxquant.per_channel_dynamic_qconfig, (x,))
    (row,) = check_agreement(reference, quantized, x).rows
    assert row.agrees and row.max_difference <= 1
