"""Hooks that remove themselves, as data-dependent initialisation does: the user's model keeps them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import pipeline
from fxquant.ir.float_part import FloatPart


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(4, 4), torch.ones(())

    def forward(self, x: Tensor) -> Any:
        return self.linear(x) * self.scale


class InVariable(Layer):
    def __init__(self) -> None:
        super().__init__()

        def begin(module: nn.Module, args: Any, output: Tensor) -> None:
            self.scale = 1 / output.detach().std()
            handle.remove()

        handle = self.linear.register_forward_hook(begin)


class InList(Layer):
    """Two hooks, whose handles are in a list."""

    def __init__(self) -> None:
        super().__init__()
        handles = list[Any]()

        def begin(module: nn.Module, args: Any) -> None:
            self.scale = 1 / args[0].detach().std()
            for handle in handles:
                handle.remove()

        handles.append(self.linear.register_forward_pre_hook(begin))
        handles.append(self.register_forward_hook(lambda module, args, output: output + 1))


class OnModule(nn.Module):
    """The hook sets an attribute of the module that it is on, and does not refer to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.linear: Any = nn.Linear(4, 4)
        self.linear.scale = torch.ones(())

        def begin(module: nn.Module, args: Any, output: Tensor) -> None:
            module.scale = 1 / output.detach().std()
            handle.remove()

        handle = self.linear.register_forward_hook(begin)

    def forward(self, x: Tensor) -> Any:
        return self.linear(x) * self.linear.scale


class InAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("scale", torch.ones(()))
        self.handle = self.linear.register_forward_hook(self.begin)

    def begin(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.scale = 1 / output.detach().std()
        self.handle.remove()

    def forward(self, x: Tensor) -> Any:
        return self.linear(x) * self.scale


class FirstOnly(Layer):
    """Another result in the first call, and no other trace of it."""

    def __init__(self) -> None:
        super().__init__()

        def begin(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            handle.remove()
            return output * 2

        handle = self.linear.register_forward_hook(begin)


def _results(model: Any, calls: list[Tensor]) -> list[Any]:
    with torch.no_grad():
        return [model(x) for x in calls]


@pytest.mark.parametrize("make", [InVariable, InList, OnModule, InAttribute, FirstOnly])
@pytest.mark.parametrize("subject", [pipeline.capture, fxquant.check_traceable])
def test_the_model_keeps_them_and_the_graph_is_as_eager(make: Callable[[], Any], subject: Any) -> None:
    x = torch.randn(4, 4)
    calls = [x * 3, x, -x]
    torch.manual_seed(0)
    model = make().eval()
    hooks = [dict(module._forward_hooks) for module in model.modules()]
    report = subject(model, (x,))
    assert [dict(module._forward_hooks) for module in model.modules()] == hooks
    captured = pipeline.capture(model, (x,))
    found = _results(captured, calls)
    torch.testing.assert_close(found, _results(model, calls))
    assert getattr(report, "ok", True)


def test_a_hook_that_only_looks_once_keeps_nothing_whole() -> None:
    model, x, seen = Layer().eval(), torch.randn(4, 4), list[Any]()

    def look(module: nn.Module, args: Any, output: Tensor) -> None:
        seen.append(output.shape)
        handle.remove()

    handle = model.linear.register_forward_hook(look)
    captured = pipeline.capture(model, (x,))
    assert not any(isinstance(part, FloatPart) for part in captured.modules())
    assert not seen and len(model.linear._forward_hooks) == 1
