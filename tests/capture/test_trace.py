"""Capture: values while tracing, structures, in-place operations, and the user's model left alone."""

from __future__ import annotations

import dataclasses
import gc
import tracemalloc
import weakref
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import FxquantError, pipeline
from fxquant.ir.meta import ALIASED, info


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, (tuple, list)):
        return type(first) is type(second) and all(map(_same, first, second))
    if dataclasses.is_dataclass(first):
        return type(first) is type(second) and _same(vars(first), vars(second))
    return bool(first == second)


@dataclasses.dataclass
class Batch:
    """A dataclass input and output."""

    image: Tensor
    extra: dict[str, Any]


class Pair(NamedTuple):
    """A named tuple output."""

    left: Tensor
    right: list[Tensor]


class Structured(nn.Module):
    """Nested inputs and outputs of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("mean", torch.randn(3, 1, 1))

    def forward(self, batch: Batch, *, masks: list[Tensor], flag: bool = True, name: str = "a") -> dict[str, Any]:
        image = batch.image - self.mean
        if flag and name == "a" and isinstance(image, Tensor) and image.dim() == 4:
            image = image * batch.extra["gain"]
        b, _, h, _ = image.shape
        y = self.conv(image) * masks[0]
        rows = [row.sum() for row in y]
        return {"pair": Pair(y, [masks[1], y.reshape(b, -1)]), "batch": Batch(y, {"height": h, "rows": rows[0]})}


def test_structures_flags_and_sizes() -> None:
    model = Structured().eval()

    def inputs(n: int, size: int) -> dict[str, Any]:
        torch.manual_seed(n)
        masks = [torch.rand(n, 1, size - 2, size - 2), torch.ones(n)]
        batch = Batch(torch.randn(n, 3, size, size), {"gain": torch.tensor(2.0)})
        return {"batch": batch, "masks": masks, "flag": True}

    captured = pipeline.capture(model, inputs(2, 8))
    for n, size in ((2, 8), (2, 11)):
        assert _same(captured(**inputs(n, size)), model(**inputs(n, size)))
    kinds = {guard.kind for guard in captured.state.guards}
    assert {"static", "flag", "size-loop"} <= kinds
    assert any("image.dim() == 4" in guard.code for guard in captured.state.guards)
    with pytest.raises(FxquantError, match="'flag' was True"):
        captured(**{**inputs(2, 8), "flag": False})


class InPlace(nn.Module):
    """In-place operations that can, and cannot, become functional."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.kind = nn.Conv2d(3, 4, 3), kind

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        if self.kind == "residual":
            y += y.relu()
            y.relu_()
        elif self.kind == "module":
            z = F.relu(y, inplace=True)
            return z + y
        elif self.kind == "view":
            y[:, 0].zero_()
        elif self.kind == "base":
            view = y[:, 1]
            y.mul_(2)
            return y + view.unsqueeze(1)
        elif self.kind == "item":
            y[:, 1:3] = 0.5
        elif self.kind == "items":
            y[:, 1] = 0.5
            y[:, 2] = y[:, 1] + y[:, 0]
            y[:, 0] = 0.25
        elif self.kind == "twice":
            y.add_(0.1)
            y.mul_(0.5)
        elif self.kind == "returned":
            z = y.add_(0.1)
            z.mul_(0.5)
            y.sub_(0.2)
        elif self.kind == "chain":
            y = x * 2
            z = y.add_(0.1).mul_(0.5)
            y = y + z.sub_(0.2)
        elif self.kind == "itself":
            y.add_(y)
            y.mul_(0.5)
        elif self.kind == "unknown":
            y.erf_()
        return y * 1.5


KINDS = ("residual", "module", "view", "base", "item", "items", "twice", "returned", "chain", "itself", "unknown")


@pytest.mark.parametrize("kind", KINDS)
def test_in_place_operations_compute_what_eager_computes(kind: str) -> None:
    model, x = InPlace(kind).eval(), torch.randn(2, 3, 8, 8)
    kept = x.clone()
    captured = pipeline.capture(model, (x,))
    other = torch.randn(3, 3, 9, 9)
    assert torch.equal(captured(other), model(other))
    quantized = fxquant.quantize(model, [x], progress=False)
    assert (quantized(x) - model(x)).abs().max() < 0.1
    assert torch.equal(x, kept)
    aliased = [node for node in captured.graph.nodes if info(node).op == ALIASED]
    assert bool(aliased) == (kind in ("view", "base"))


def test_values_die_with_the_users_variables() -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    class Watch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal most
            for _ in range(20):
                x = x.exp().log() + 1
                value = getattr(x, "value", x)
                alive.append(weakref.ref(value))
                most = max(most, sum(ref() is not None for ref in alive))
            return x

    captured = pipeline.capture(Watch().eval(), (torch.rand(2, 3),))
    gc.collect()
    assert most <= 3, "intermediate values outlive their variables"
    assert all(ref() is None for ref in alive)
    assert len(captured.graph.nodes) == 62


def test_capture_is_linear_in_nodes() -> None:
    def calls(depth: int) -> int:
        model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(depth))).eval()
        tracemalloc.start()
        pipeline.capture(model, (torch.randn(1, 4),))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    calls(5)
    small, large = calls(50), calls(200)
    assert large < 5 * small


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_branch_on_a_tensor_value_runs_as_python_and_is_noted_with_its_line() -> None:
    captured = pipeline.capture(Branch(), (torch.ones(2),))
    assert torch.equal(captured(-torch.ones(2)), torch.ones(2))
    (note,) = captured.state.capture_notes
    assert "x.sum() > 0" in note and "test_trace.py:" in note


def test_strict_trace_refuses_a_branch_on_a_tensor_value_with_its_line() -> None:
    with pytest.raises(FxquantError, match=r"x\.sum\(\) > 0(.|\n)*test_trace\.py:\d+(.|\n)*torch\.where"):
        pipeline.capture(Branch(), (torch.ones(2),), strict=True)


def test_training_state_random_state_and_hooks_are_untouched() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    called: list[int] = []
    handle = model[0].register_forward_hook(lambda *_: called.append(1))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    captured = pipeline.capture(model, (torch.ones(2, 3, 8, 8),))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in captured.state_dict().items())
    handle.remove()


def test_composites_are_opened_and_shared_modules_kept_apart() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.relu(self.conv(x)))

    x = torch.randn(2, 4, 8, 8)
    observed = fxquant.prepare_fx(Shared().eval(), fxquant.get_default_qconfig_mapping(), (x,))
    units = {unit.name: unit for unit in observed.plan.units}
    assert list(units) == ["relu", "conv_1"] and units["relu"].role("clip") == "relu"
    assert units["relu"].output != units["conv_1"].output


def test_fuse_without_and_with_example_inputs() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5), nn.BatchNorm1d(5)
    ).train()
    x = torch.randn(6, 3, 8, 8)
    model(x)
    model.eval()
    for example, left in ((None, 1), ((x,), 0)):
        fused = fxquant.fuse_fx(model, example_inputs=example)
        assert (fused(x) - model(x)).abs().max() < 1e-5
        norms = [node for node in fused.graph.nodes if "batch_norm" in info(node).op]
        assert len(norms) == left
