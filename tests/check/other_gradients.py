"""Other spellings: gradients, autocast, hooks, writes into buffers and inputs."""

from __future__ import annotations

import contextlib
import functools
import warnings
from typing import Any

import torch
from case import Case, rows
from other_effects import Layer
from torch import Tensor, nn


class STE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Any) -> Any:
        return torch.round(x / s) * s

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g, None


class GradReverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return -g


class Outer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        return STE.apply(x, 0.5) * 2

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g * 3


def fake_quant(x: Tensor) -> Any:
    return STE.apply(x, 0.1)


class NestedFunctions(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return Outer.apply(self.first(x))  # finding: custom-function

    inputs = staticmethod(rows)


class AppliedAlias(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.reverse = GradReverse.apply

        def forward(self, x: Tensor) -> Any:
            return self.reverse(self.first(x))  # finding: custom-function

    inputs = staticmethod(rows)


class FunctionWithSetup(Case):
    class Sq(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Any:
            return x * x

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> Any:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * 7

    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return FunctionWithSetup.Sq.apply(self.first(x))  # finding: custom-function

    inputs = staticmethod(rows)


class InferenceModeBlock(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            with torch.no_grad(), contextlib.nullcontext():  # finding: grad-mode
                m = self.first(x).mean()
            return self.first(x) - m

    inputs = staticmethod(rows)


class DecoratedForward(Case):
    class before(Layer):
        @torch.no_grad()  # finding: grad-mode
        def forward(self, x: Tensor) -> Any:
            return self.first(x)

    inputs = staticmethod(rows)


class DetachData(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return y - y.data.mean()

    inputs = staticmethod(rows)


class AutocastDecorator(Case):
    class before(Layer):
        @torch.autocast("cpu", dtype=torch.bfloat16)  # finding: autocast
        def mix(self, y: Any) -> Any:
            return y @ y.t()

        def forward(self, x: Tensor) -> Any:
            return self.mix(self.first(x)).float()

    inputs = staticmethod(rows)
    outcome = "region"


class PartialHook(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.first.register_forward_hook(functools.partial(PartialHook.scale, 2.0))

        def forward(self, x: Tensor) -> Any:
            return torch.relu(self.first(x))  # finding: module-hook

    @staticmethod
    def scale(k: Any, module: Any, args: Any, out: Any) -> Any:
        return out * k

    inputs = staticmethod(rows)


class HookWithState(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.feats = {}
            self.first.register_forward_hook(self.save)

        def save(self, module: Any, args: Any, out: Any) -> Any:
            self.feats["first"] = out  # finding: container-update

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)  # finding: module-hook
            return torch.relu(y) + self.feats["first"]  # finding: plain-tracing

    inputs = staticmethod(rows)


class SpectralNorm(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))

        def forward(self, x: Tensor) -> Any:
            return self.first(x)

    inputs = staticmethod(rows)


class OldWeightNorm(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with warnings.catch_warnings(action="ignore"):
                self.first = torch.nn.utils.weight_norm(nn.Linear(6, 6))

        def forward(self, x: Tensor) -> Any:
            return self.first(x)  # finding: attribute-update, module-hook

    inputs = staticmethod(rows)


class WritesBufferSlice(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.scratch = torch.zeros(4, 6)

        def forward(self, x: Tensor) -> Any:
            self.scratch[:] = self.first(x)  # finding: attribute-update, buffer-update, item-assignment
            return self.scratch * 2

    inputs = staticmethod(rows)


class InputInPlace(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            x.mul_(2).clamp_(max=1)  # finding: input-update
            return self.first(x)

    inputs = staticmethod(rows)


class InputInPlaceActivation(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Any:
            return self.first(self.act(x)) + x  # finding: input-update

    inputs = staticmethod(rows)


class GradientOfInput(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            x = x.detach().requires_grad_()
            energy = torch.tanh(self.first(x)).sum()
            return energy, -torch.autograd.grad(energy, x)[0]  # finding: error

    inputs = staticmethod(rows)
    outcome = "refused"


class HookOnTensor(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            y.register_hook(lambda gradient: gradient.clamp(-1, 1))  # finding: opaque-call
            return torch.relu(y)

    inputs = staticmethod(rows)
    outcome = "region"
