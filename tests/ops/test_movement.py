"""Moving, selecting, joining and writing numbers inside models: what one call alone does not show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import pipeline
from fxquant.errors import CaptureError
from fxquant.inspect.agreement import check_agreement
from fxquant.ir.stages import QuantizedModel
from fxquant.numerics.sqnr import sqnr_db

Body = Callable[["Net", Tensor], Any]
FIRST, CHANNEL_0 = (slice(None), slice(0, 2)), (slice(None), 0)


class Net(nn.Module):
    """A convolution, something made of its result, and tensors of the model that it may use."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.after, self.body = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), body
        self.register_buffer("map", 3 * torch.randn(2, 4, 6, 6))
        self.token = nn.Parameter(torch.randn(1, 4, 1, 6))
        self.plain = [torch.zeros(2, 4, 6, 6)]

    def forward(self, x: Tensor) -> Any:
        return self.body(self, self.before(x))


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [tensor for item in value for tensor in _tensors(item)]


def _outcomes(body: Body) -> tuple[dict[str, str], QuantizedModel]:
    """Quantize, check against eager and the reference; outcome by operator."""
    net, x = Net(body).eval(), torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        eager = net(x.clone())
        observed = fxquant.prepare_fx(net, fxquant.get_default_qconfig_mapping(), (x,))
        found = observed(x.clone())
        assert type(found) is type(eager)
        assert all(torch.equal(a, b) for a, b in zip(_tensors(found), _tensors(eager), strict=True))
        reference = fxquant.convert_to_reference_fx(observed)
        quantized = pipeline.lower(reference)
        made = quantized(x.clone())
        assert type(made) is type(eager) and not any(tensor.is_quantized for tensor in _tensors(made))
        agreement = check_agreement(reference, quantized, x)
    assert not agreement.violations, f"\n{agreement}"
    return {row.op: row.outcome for row in fxquant.explain(quantized).rows}, quantized


def _assign(x: Tensor, index: Any, value: Any) -> Tensor:
    x[index] = value
    return x


def _refill(y: Tensor, into: Tensor) -> Tensor:
    into[:, :2] = y[:, 2:]
    into[:, 2:] = y[:, :2]
    return into


def _unsqueezed(y: Tensor) -> Tensor:
    copy = y.clone()
    copy.unsqueeze_(0)
    return copy[0]


STAYS_INT8: dict[str, tuple[Body, str, str]] = {
    "assign a slice": (lambda m, y: m.after(_assign(y.clone(), FIRST, m.after(y)[FIRST])), "set_item", "int8"),
    "assign a number": (lambda m, y: m.after(_assign(y, CHANNEL_0, 1.5)), "set_item", "int8"),
    "assign zero": (lambda m, y: m.after(_assign(y, CHANNEL_0, 0)), "set_item", "int8"),
    "assign where": (lambda m, y: m.after(_assign(y.clone(), y > 0.5, 0.5)), "set_item", "int8"),
    "assign a buffer": (lambda m, y: m.after(_assign(y, CHANNEL_0, m.map[:, 0])), "set_item", "int8"),
    "fill zeros": (lambda m, y: m.after(_refill(y, torch.zeros(2, 4, 6, 6))), "set_item", "int8"),
    "fill new_zeros": (lambda m, y: m.after(_refill(y, y.new_zeros(y.shape))), "zeros", "free"),
    "fill zeros_like": (lambda m, y: m.after(_refill(y, torch.zeros_like(y))), "zeros", "free"),
    "scatter_": (
        lambda m, y: m.after(y.clone().scatter_(1, torch.ones(2, 1, 6, 6, dtype=torch.long), m.after(y))),
        "scatter",
        "int8",
    ),
    "scatter value": (
        lambda m, y: m.after(torch.scatter(y, 1, torch.ones(2, 1, 6, 6, dtype=torch.long), value=0.5)),
        "scatter",
        "int8",
    ),
    "unused parts": (
        lambda m, y: m.after(torch.cat([torch.split(y, 1, 1)[i] for i in (0, 2, 3, 3)], 1)),
        "split",
        "free",
    ),
    "sort values": (lambda m, y: m.after(torch.sort(y, 1).values), "sort", "int8"),
    "positions and unpool": (
        lambda m, y: m.after(F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), 2)),
        "max_unpool2d",
        "int8",
    ),
    "gather at argmax": (
        lambda m, y: m.after(y.gather(1, y.argmax(1, keepdim=True).expand(-1, 4, -1, -1))),
        "gather",
        "free",
    ),
    "unbind and stack": (lambda m, y: m.after(torch.stack(y.unbind(1)[::-1], 1)), "stack", "int8"),
    "split by keyword": (lambda m, y: m.after(torch.cat(y.split(split_size=2, dim=1), axis=1)), "split", "free"),
    "sections": (lambda m, y: m.after(torch.cat(torch.tensor_split(y, sections=2, dim=1), 1)), "tensor_split", "free"),
    "axes": (lambda m, y: m.after(torch.swapaxes(y, axis0=2, axis1=3)), "transpose", "free"),
    "mT": (lambda m, y: m.after(y.mT), "transpose", "free"),
    "T": (lambda m, y: m.after(y[0, 0].T.expand(2, 4, 6, 6)), "permute", "free"),
    "data": (lambda m, y: m.after(y.data), "detach", "free"),
    "unsqueeze_": (lambda m, y: m.after(y.clone().unsqueeze_(1).squeeze_(1)), "squeeze", "free"),
    "transpose_": (lambda m, y: m.after(y.clone().transpose_(2, 3)), "transpose", "free"),
    "conversions": (lambda m, y: m.after(y.to(y.dtype).to(y.device).float().type_as(y)), "to", "free"),
    "size of another": (
        lambda m, y: m.after(F.interpolate(F.max_pool2d(y, 2), size=y.shape[2:], mode="bilinear")),
        "interpolate",
        "int8",
    ),
    "cat with a buffer": (lambda m, y: m.after(torch.cat([m.map, y], 2)), "cat", "int8"),
    "cat with a token": (
        lambda m, y: m.after(torch.cat([m.token.expand(y.shape[0], -1, -1, -1), y], 2)),
        "cat",
        "int8",
    ),
    "masked_scatter of a buffer": (
        lambda m, y: m.after(torch.masked_scatter(y, m.map > 0, m.map)),
        "masked_scatter",
        "int8",
    ),
    "pad a fixed range": (lambda m, y: m.after(F.pad(torch.sigmoid(y), (1, 1, 1, 1), value=2.0)), "pad", "int8"),
    "stack fixed ranges": (lambda m, y: m.after(torch.vstack([torch.sigmoid(y), torch.tanh(y)])), "vstack", "int8"),
    "stack with a fixed range": (lambda m, y: m.after(torch.dstack([torch.sigmoid(y), y])), "dstack", "int8"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "op", "outcome"), STAYS_INT8.values(), ids=STAYS_INT8)
def test_int8_from_end_to_end(body: Body, op: str, outcome: str) -> None:
    """Nothing is dequantized between the first and the last convolution."""
    outcomes, quantized = _outcomes(body)
    assert outcomes[op] == outcome
    assert not {"float", "step"} & set(outcomes.values()), outcomes
    reads = [node for node in quantized.graph.nodes if node.target == "dequantize"]
    makes_condition = {"eq", "gt", "argmax"} & set(outcomes)
    assert len(reads) == 1 + len(makes_condition)


@pytest.mark.parametrize(
    "body",
    [
        lambda m, y: m.after(y.as_strided((2, 4, 3, 3), (144, 36, 6, 1))),
        lambda m, y: m.after(y.as_strided((2, 4, 3, 3), y.stride())),
        lambda m, y: m.after(y),
    ],
)
def test_memory_layout_is_eagers_where_it_can_be_seen(body: Body) -> None:
    """Kernels write channels last; operators that depend on strides, and callers, get what eager gives them."""
    net, x = Net(body).eval(), torch.randn(2, 4, 6, 6)
    quantized = fxquant.quantize(net, [x], progress=False)
    eager, made = net(x), quantized(x)
    assert made.stride() == eager.stride()
    assert sqnr_db(eager, made) > 24


LEAVES: dict[str, Body] = {
    "one part": lambda m, y: (m.after(torch.cat([y.chunk(4, 1)[i] for i in (0, 1, 1, 0)], 1)), y.chunk(4, 1)[2]),
    "all parts": lambda m, y: torch.split(y, 2, 1),
    "values and positions": lambda m, y: tuple(torch.topk(y, 2)),
    "a named tuple": lambda m, y: torch.sort(y),
    "positions": lambda m, y: F.max_pool2d(y, 2, return_indices=True),
    "a mask": lambda m, y: (m.after(y), y > 0),
}


@pytest.mark.parametrize("body", LEAVES.values(), ids=LEAVES)
def test_outputs_that_leave_the_model(body: Body) -> None:
    """They leave as plain tensors, in the container that eager returns."""
    _outcomes(body)


STAYS_FLOAT: dict[str, tuple[Body, str, str]] = {
    "a named tuple": (lambda m, y: torch.sort(y), "sort", "its results are read as one tuple"),
    "a large number": (lambda m, y: m.after(F.pad(y, (1, 1, 1, 1), value=-1e9)), "pad", "its range would have to hold"),
    "a large fill": (
        lambda m, y: m.after(y.index_fill(1, torch.tensor([0]), -1e4)),
        "index_fill",
        "its range would have to hold",
    ),
    "random windows": (
        lambda m, y: m.after(F.fractional_max_pool2d(y, 2, output_size=3)),
        "fractional_max_pool2d",
        "its windows are random",
    ),
    "overlapping windows": (
        lambda m, y: m.after(F.fold(F.unfold(y, 3), (6, 6), 3)),
        "fold",
        "its windows overlap and are added up",
    ),
    "sums at places": (
        lambda m, y: m.after(torch.index_put(y, (torch.tensor([0, 0]),), y, accumulate=True)),
        "index_put",
        "numbers that meet are added or multiplied",
    ),
    "another dtype": (lambda m, y: m.after(y.double().float()), "float", "it converts from float64"),
}


@pytest.mark.parametrize(("body", "op", "reason"), STAYS_FLOAT.values(), ids=STAYS_FLOAT)
def test_float_with_a_reason(body: Body, op: str, reason: str) -> None:
    """What integers cannot do, or not well, is computed in float, and explain says why."""
    net, x = Net(body).eval(), torch.randn(2, 4, 6, 6)
    observed = fxquant.prepare_fx(net, fxquant.get_default_qconfig_mapping(), (x,))
    row = next(row for row in fxquant.explain(observed).rows if row.op == op)
    assert row.outcome != "int8" and reason in row.reason


def test_writing_into_a_tensor_that_is_no_value_of_the_graph() -> None:
    """What is read from it later would be the example's numbers, so those lines stay Python; or it is refused."""
    net, x = Net(lambda m, y: m.after(_refill(y, m.plain[0]))).eval(), torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        observed = fxquant.prepare_fx(net, fxquant.get_default_qconfig_mapping(), (x,))
        assert [row.outcome for row in fxquant.explain(observed).rows if "write-to-constant" in row.reason] == ["float"]
        other = torch.randn(2, 4, 6, 6)
        assert torch.equal(observed(other), net(other))
        with pytest.raises(CaptureError, match="write-to-constant"):
            fxquant.prepare_fx(net, fxquant.get_default_qconfig_mapping(), (x,), strict_trace=True)
