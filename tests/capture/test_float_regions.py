"""What no graph can hold runs as Python, in float, and the rest is captured; the graph computes what eager does."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import pipeline
from fxquant.capture.trace_model import trace_model
from fxquant.errors import CaptureError
from fxquant.ir.float_part import FloatPart
from fxquant.numerics.sqnr import sqnr_db


class Gate(nn.Module):
    """A branch on values between two linears."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if y.sum() > 0:
            y = y * 2
        return self.second(y)


class Counting(nn.Module):
    """Counts its calls, and computes with the count."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(8, 8), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x) * self.calls


class Growing(nn.Module):
    """Keeps what it has seen in a buffer that grows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("seen", torch.zeros(0, 8))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = torch.cat([self.seen, x[:1]])
        y: Tensor = self.linear(x) + self.seen.mean()
        return y


class Cached(nn.Module):
    """Makes positions again when the length is another one."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("positions", torch.zeros(1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.positions.shape[0] != x.shape[0]:
            self.positions = torch.arange(float(x.shape[0])).view(-1, 1)
        y: Tensor = self.linear(x) + self.positions
        return y


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 8, generator=generator)
    return [x, -x, 3 * x, x]


@pytest.mark.parametrize("kind", [Gate, Counting, Growing, Cached])
def test_the_graph_computes_what_eager_does_call_after_call(kind: type[nn.Module]) -> None:
    model = nn.Sequential(kind(), nn.ReLU()).eval()
    captured = pipeline.capture(model, (inputs()[0],))
    eager = copy.deepcopy(model)
    assert all(torch.equal(captured(x), eager(x)) for x in inputs())


def test_only_the_statement_is_float() -> None:
    model = nn.Sequential(Gate(), nn.ReLU()).eval()
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (inputs()[0],))
    for x in inputs():
        observed(x)
    (note,) = (note for note in observed.plan.notes if "runs as Python" in note)
    assert "y.sum() > 0" in note and "test_float_regions.py:" in note
    quantized = fxquant.convert_fx(observed)
    (unit,) = (unit for unit in quantized.plan.units if "runs as Python" in unit.reason)
    assert "lines" in unit.reason and sum(unit.outcome == "int8" for unit in quantized.plan.units) == 2
    for x in inputs():
        assert decibels(model(x), quantized(x)) > 25


def decibels(expected: Tensor, found: Tensor) -> float:
    expected, found = expected.detach(), found.detach()
    noise = (expected - found).square().sum().clamp(min=1e-30)
    return float(10 * torch.log10(expected.square().sum() / noise))


def test_strict_trace_lists_everything_that_is_in_the_way() -> None:
    model = nn.Sequential(Gate(), Counting()).eval()
    mapping = fxquant.get_default_qconfig_mapping()
    with pytest.raises(CaptureError, match=r"y\.sum\(\) > 0(.|\n)*test_float_regions\.py:\d+"):
        fxquant.prepare_fx(model, mapping, (inputs()[0],), strict_trace=True)
    with pytest.raises(CaptureError, match=r"y\.sum\(\) > 0"):
        fxquant.quantize(model, inputs(), progress=False, strict_trace=True)


def test_what_a_trace_changes_is_put_back() -> None:
    model = nn.Sequential(Counting(), Growing(), nn.BatchNorm1d(8), nn.Dropout(0.5)).train()
    before = {name: (dict(vars(module)), module.state_dict()) for name, module in model.named_modules()}
    state = torch.get_rng_state()
    pipeline.capture(model, (inputs()[0],))
    assert torch.equal(torch.get_rng_state(), state) and model[0].calls == 0 and not model[1].seen.numel()
    for name, module in model.named_modules():
        assert vars(module).keys() == before[name][0].keys()
        assert all(torch.equal(value, before[name][1][key]) for key, value in module.state_dict().items())


def test_a_part_survives_deepcopy_and_says_what_it_is() -> None:
    captured = pipeline.capture(Gate().eval(), (inputs()[0],))
    again = copy.deepcopy(captured)
    (part,) = (module for module in again.modules() if isinstance(module, FloatPart))
    assert part.title.endswith("Gate.forward") and "y.sum() > 0" in part.why
    assert torch.equal(captured(inputs()[1]), again(inputs()[1]))


class Caught(nn.Module):
    """An own gradient: rounding that lets gradients through."""

    class Round(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.round()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return gradient

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(Caught.Round.apply(x * 4))


def test_the_gradient_of_an_own_function_is_kept() -> None:
    captured = pipeline.capture(Caught(), (inputs()[0],))
    gradients = []
    for model in (Caught(), captured):
        x = inputs()[0].requires_grad_()
        model(x).sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients) and gradients[0].abs().sum() > 0


class Cache:
    """Keeps what layers put into it, until the end of one call."""

    def __init__(self) -> None:
        self.kept: dict[int, Tensor] = {}

    def put(self, place: int, x: Tensor) -> Tensor:
        self.kept[place] = x if place not in self.kept else torch.cat([self.kept[place], x])
        return self.kept[place]


def passing_on(forward: Any) -> Any:
    """A wrapper that every layer shares, as for gradient checkpointing."""

    @functools.wraps(forward)
    def wrapper(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.training:
            return forward(self, *args)
        return forward(self, *args, **kwargs)

    return wrapper


class Caching(nn.Module):
    """Branches on values, and fills a cache that it is given."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place, self.first, self.gate = place, nn.Linear(8, 8), Gate()

    @passing_on
    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        x = self.first(x)
        y = self.gate(x)
        if y.mean() > 5:
            y = y - 5
        if cache is not None:
            y = y + cache.put(self.place, x).mean()
        return y


class WithCache(nn.Module):
    """Makes the cache."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Caching(place) for place in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        cache = Cache()
        for layer in self.layers:
            x = layer(x, cache=cache)
        return x


def test_layers_that_run_the_same_code_have_the_same_small_parts() -> None:
    model = WithCache().eval()
    captured = pipeline.capture(model, (inputs()[0],))
    assert {part.title.split(" of ")[1] for part in captured.modules() if isinstance(part, FloatPart)} == {
        "Gate.forward",
        "Caching.forward",
    }
    for x in (*inputs(), inputs()[0][:3]):
        assert torch.equal(captured(x), model(x))


@pytest.mark.parametrize("leaf", ["layers.1", "layers"])
def test_an_object_that_forward_makes_and_a_leaf_changes_is_no_constant(leaf: str) -> None:
    model = WithCache().eval()
    names = [leaf] if leaf != "layers" else [f"layers.{place}" for place in range(3)]
    traced = trace_model(model, (inputs()[0],), leaf_names=names)
    captured = fx.GraphModule(traced.root, traced.graph)
    assert any("Cache" in fact.value for fact in traced.facts)
    for x in (*inputs(), inputs()[0][:3]):
        assert torch.equal(captured(x), model(x))


_SCRATCH = torch.zeros(4, 6)


class _ThroughGlobal(nn.Module):
    """Writes its input into a tensor of the module's globals, and reads that."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        _SCRATCH.copy_(self.layer(x))
        return self.last(_SCRATCH)  # type: ignore[no-any-return]


def test_what_is_written_into_a_tensor_outside_is_read_from_it_in_every_stage() -> None:
    model, x, other = _ThroughGlobal().eval(), torch.randn(4, 6), torch.randn(4, 6)
    with torch.no_grad():
        observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (x,))
        observed(x)
        stages = observed, fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
        for stage in (*stages, fxquant.convert_fx(pickle.loads(pickle.dumps(observed)))):
            expected = model(other)
            _SCRATCH.zero_()
            assert sqnr_db(expected, stage(other)) > 30 and _SCRATCH.any()
