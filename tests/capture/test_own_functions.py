"""Functions and hooks that refer to their model: copies have their own, and gradients are those of eager."""

from __future__ import annotations

import copy
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import pipeline
from fxquant.capture.copy_module import copy_module
from fxquant.ir.float_part import FloatPart


class Collecting(nn.Module):
    """A hook that writes into a list of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.seen: list[Any] = []
        self.second.register_forward_hook(lambda module, args, output: self.seen.append(output.shape))

    def forward(self, x: Tensor) -> Any:
        return self.second(self.first(x))


class Scaled(nn.Module):
    """A hook that counts, and scales by the count; hooks on the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.calls = 0

        def scale(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            self.calls += 1
            return output * self.calls

        self.second.register_forward_hook(scale)
        self.register_forward_hook(lambda module, args, output: output + 1)

    def forward(self, x: Tensor) -> Any:
        return self.second(self.first(x))


def test_a_copy_of_a_model_has_functions_of_its_own() -> None:
    model = Collecting()
    copied: Any = copy_module(model)
    copied(torch.randn(2, 8))
    assert len(copied.seen) == 1 and not model.seen


def test_containers_and_weak_references_in_variables_are_those_of_the_copy() -> None:
    model, lock = nn.Linear(8, 8), threading.Lock()
    kept, reference = {"model": model, "lock": lock, "all": [model]}, weakref.ref(model)
    model.register_forward_hook(lambda module, args, output: seen.append((kept, reference())))
    seen = list[Any]()
    copied = copy_module(model)
    copied(torch.randn(2, 8))
    (held, referred) = seen[0]
    assert held["model"] is copied and held["all"] == [copied] and referred is copied
    assert held["lock"] is lock and kept["model"] is model


def test_neither_check_nor_prepare_write_through_a_hook() -> None:
    model, x = Collecting().eval(), torch.randn(2, 8)
    assert fxquant.check_traceable(model, (x,)).ok
    fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping("x86"), (x,))(x)
    assert not model.seen


def test_state_of_a_hook_is_kept_by_every_copy_of_the_graph() -> None:
    x, model = torch.randn(3, 8), Scaled().eval()
    eager: Any = copy_module(model)
    graph = pipeline.capture(model, (x,))
    with torch.no_grad():
        expected = [eager(x) for _ in range(3)]
        other = copy.deepcopy(graph)
        for subject in (graph, other):
            for wanted in expected:
                torch.testing.assert_close(subject(x), wanted, rtol=0, atol=0)
    assert model.calls == 0


class TensorHook(nn.Module):
    """Doubles gradients on their way to the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient * 2)
        return self.second(torch.relu(y))


def backward_hook() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model[2].register_full_backward_hook(lambda module, inner, outer: tuple(item * 2 for item in inner))
    return model


def backward_pre_hook() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.Tanh()))
    model[2].register_full_backward_pre_hook(lambda module, outer: (outer[0] * 3,))
    return model


@pytest.mark.parametrize("make", [TensorHook, backward_hook, backward_pre_hook])
def test_hooks_on_gradients_are_kept_in_training(make: Any) -> None:
    torch.manual_seed(0)
    model, x = make().train(), torch.randn(4, 8)
    eager = copy_module(model)
    prepared = fxquant.prepare_qat_fx(model, fxquant.get_default_qat_qconfig_mapping("x86"), (x,))
    prepared.apply(fxquant.disable_fake_quant)
    eager(x).sum().backward()
    prepared(x).sum().backward()
    found = dict(prepared.named_parameters())
    for name, parameter in eager.named_parameters():
        torch.testing.assert_close(found[name].grad, parameter.grad, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        prepared(x)  # without gradients there is nothing to hook


def test_hooks_on_gradients_cost_no_int8_in_inference() -> None:
    graph = pipeline.capture(backward_hook().eval(), (torch.randn(4, 8),))
    assert not any(isinstance(part, FloatPart) for part in graph.modules())
    assert not graph.get_submodule("2")._backward_hooks


class Cache(nn.Module):
    """Keeps keys of former calls, between linears that need none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        keys = self.first(x)
        if self.kept is not None:
            keys = torch.cat([self.kept, keys])
        self.kept = keys
        return self.second(keys)


def test_state_keeps_only_the_statements_that_use_it_whole() -> None:
    x, model = torch.randn(3, 8), Cache().eval()
    graph, eager = pipeline.capture(model, (x,)), copy_module(model)
    parts = [part for part in graph.modules() if isinstance(part, FloatPart)]
    assert len(parts) == 1 and parts[0].last_line - parts[0].first_line == 2
    assert not any(True for _ in parts[0].parameters())
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(graph(x), eager(x), rtol=0, atol=0)
