"""Deep models: traces that end early, and work that grows no faster than the number of layers."""

from __future__ import annotations

import copy
import cProfile
import pstats
import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import pipeline
from fxquant.capture import end_early
from fxquant.capture.tracer import ValueTracer
from fxquant.errors import FxquantError
from fxquant.ir.walk_modules import Inventory

LAYERS = 20
LOCK = threading.Lock()


class Padded(nn.Module):
    """Pads an odd width in each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % 2:
            x = F.pad(x, (0, 1))
        y: Tensor = self.conv(x)
        return y


class CatchesAll(nn.Module):
    """Layers in a block that catches every exception."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Padded() for _ in range(LAYERS)))

    def forward(self, x: Tensor) -> Tensor:
        try:
            x = self.layers(x)
        except Exception:
            x = x * 0
        return x.relu()


class TallOrWide(nn.Module):
    """Two branches on sizes in a layer; one of them holds weights, so that it cannot run as Python."""

    def __init__(self) -> None:
        super().__init__()
        self.tall, self.wide = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tall(x) if x.shape[0] > 6 else self.wide(x)
        if x.shape[0] % 2:
            x = x + 1
        return x.relu()


class Asks(nn.Module):
    """Asks what no size answers differently."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y + x if y.shape == x.shape else y


class MayBeCausal(nn.Module):
    """A method computes a truth value from a size; a branch on it is behind weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def is_long(self, length: int) -> bool:
        if length > 1:
            return True
        return length < 0

    def forward(self, x: Tensor) -> Tensor:
        is_causal = self.is_long(x.shape[1])
        y: Tensor = self.linear(x)
        if is_causal and x.shape[1] > 8:
            y = y.cumsum(1)
        return y + x


class Decays(nn.Module):
    """Writes into a parameter where nothing sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % 2:
            x = F.pad(x, (0, 1))
        self.linear.weight.data.mul_(0.5)
        y: Tensor = self.linear(x)
        return y


class Locks(nn.Module):
    """Takes a lock, and sets the default dtype, without a block that would undo it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PaddedRows() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        LOCK.acquire()
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        for layer in self.layers:
            x = layer(x)
        torch.set_default_dtype(dtype)
        LOCK.release()
        return x


class PaddedRows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 4:
            x = F.pad(x, (0, 0, 0, 4 - x.shape[1] % 4))
        y: Tensor = self.linear(x)
        return y


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.norm(F.relu(self.linear(x)))
        return y


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.attention(x, x, x, need_weights=False)[0]
        return y


class Writes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.linear(x), x.clone()
        z[..., :4] = y[..., :4]
        z[..., 4:].mul_(2)
        self.mean.mul_(0.9).add_(y.mean(dim=(0, 1)))
        result: Tensor = z + y - self.mean
        return result


def _stack(layer: Callable[[], nn.Module], count: int = LAYERS) -> nn.Module:
    return nn.Sequential(*(layer() for _ in range(count))).eval()


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many nodes each trace made."""
    found: list[int] = []
    trace = ValueTracer.trace

    def counted(self: ValueTracer, root: nn.Module) -> torch.fx.Graph:
        graph = trace(self, root)
        found.append(len(graph.nodes))
        return graph

    monkeypatch.setattr(ValueTracer, "trace", counted)
    return found


def _calls(model: nn.Module) -> int:
    profile = cProfile.Profile()
    profile.enable()
    pipeline.capture(model, (torch.randn(2, 3, 8),))
    profile.disable()
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


class Accumulates(nn.Module):
    """Adds to what all layers have in one memory, and changes what it computes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x += F.relu(self.linear(x), inplace=True)
        return x


class AsksForValues(nn.Module):
    """Has a statement that runs as Python."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        if y.abs().max() > 9:
            y = y / 2
        return y


def _same(model: nn.Module, captured: nn.Module, x: Tensor) -> None:
    assert torch.equal(model(x), captured(x))


@pytest.mark.parametrize("make", [lambda: _stack(Padded), lambda: CatchesAll().eval()])
def test_the_first_trace_ends_after_some_layers(make: Callable[[], nn.Module], nodes: list[int]) -> None:
    model = make()
    captured = pipeline.capture(model, (torch.randn(1, 2, 4, 4),))
    first, last = nodes
    assert first < last * 0.3
    for width in (4, 5, 7):
        _same(model, captured, torch.randn(2, 2, 4, width))


def test_traces_end_early_that_will_be_made_again(nodes: list[int]) -> None:
    model = _stack(MayBeCausal)
    captured = pipeline.capture(model, (torch.randn(2, 3, 4),))
    assert len(nodes) > 2
    assert all(count < nodes[-1] * 0.3 for count in nodes[:-1])
    for length in (2, 3, 7):
        _same(model, captured, torch.randn(1, length, 4))


def test_traces_have_one_copy_of_the_parameters_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    roots: list[nn.Module] = []
    trace = ValueTracer.trace_all

    def noted(self: ValueTracer, held: Inventory) -> torch.fx.Graph:
        roots.append(held.model)
        return trace(self, held)

    monkeypatch.setattr(ValueTracer, "trace_all", noted)
    model = _stack(Padded)
    pipeline.capture(model, (torch.randn(1, 2, 4, 4),))
    assert len(roots) == 2
    own = [item.data_ptr() for item in model.parameters()]
    first, second = ([item.data_ptr() for item in root.parameters()] for root in roots)
    assert first == second
    assert not set(own) & set(first)


def test_what_a_trace_wrote_into_parameters_is_not_there_in_the_next() -> None:
    model = _stack(Decays, 3)
    before = copy.deepcopy(model.state_dict())
    captured, eager = pipeline.capture(model, (torch.randn(2, 4),)), copy.deepcopy(model)
    assert all(torch.equal(item, before[name]) for name, item in model.state_dict().items())
    for width in (4, 3, 4):
        x = torch.randn(2, width)
        assert torch.allclose(eager(x), captured(x))


def test_no_trace_ends_while_something_is_to_be_undone() -> None:
    model = Locks().eval()
    captured = pipeline.capture(model, (torch.randn(2, 5, 4),))
    assert not LOCK.locked()
    assert torch.get_default_dtype() is torch.float32
    _same(model, captured, torch.randn(2, 5, 4))
    assert torch.get_default_dtype() is torch.float32


def test_a_model_that_fails_after_a_trace_that_ended_early_is_said_to() -> None:
    model = nn.Sequential(*(PaddedRows() for _ in range(3)), nn.Linear(7, 4))
    with pytest.raises(FxquantError, match="itself fails"):
        pipeline.capture(model, (torch.randn(2, 5, 4),))


def test_what_later_layers_do_is_reported_for_each_of_them() -> None:
    captured = pipeline.capture(_stack(Padded), (torch.randn(1, 2, 4, 4),))
    found = [fact for fact in captured.state.facts if fact.kind == "size-branch"]
    assert {fact.module_path for fact in found} == {str(index) for index in range(LAYERS)}
    assert all("runs as Python" in fact.handled for fact in found)


def test_a_branch_that_cannot_run_as_python_is_built_in_and_the_other_is_not() -> None:
    model = _stack(TallOrWide)
    captured = pipeline.capture(model, (torch.randn(4, 4),))
    for rows in (4, 5, 3):
        _same(model, captured, torch.randn(rows, 4))
    with pytest.raises(Exception, match=r"x\.shape\[0\] > 6"):
        captured(torch.randn(8, 4))


def test_what_is_answered_alike_ends_no_trace(nodes: list[int]) -> None:
    model = _stack(Asks)
    captured = pipeline.capture(model, (torch.randn(4, 4),))
    assert len(nodes) == 1
    _same(model, captured, torch.randn(7, 4))


def test_as_many_layers_as_it_takes_to_see(monkeypatch: pytest.MonkeyPatch, nodes: list[int]) -> None:
    monkeypatch.setattr(end_early, "_ENOUGH", LAYERS)
    model = _stack(Padded)
    captured = pipeline.capture(model, (torch.randn(1, 2, 4, 4),))
    assert len(nodes) == 2
    _same(model, captured, torch.randn(2, 2, 4, 5))


@pytest.mark.parametrize("layer", [Normed, Attends, Writes, Accumulates, AsksForValues])
def test_the_work_grows_with_the_number_of_layers(layer: Callable[[], nn.Module]) -> None:
    def calls(count: int) -> int:
        """The fewest of some captures: values may lie where others lay before, which is looked into."""
        return min(_calls(_stack(layer, count)) for _ in range(4))

    calls(2)
    few, some, many = (calls(count) for count in (10, 30, 50))
    assert many - some < 1.25 * (some - few)  # twice as many where it grows with the square
