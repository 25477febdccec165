"""Other ways: enums, replaced forwards, hooks, checkpoints, state in objects."""

from __future__ import annotations

import enum
import functools
import os
from typing import Any

import torch
import torch.nn.functional as F
from case import Case, rows
from other_ways import Layer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class EnumDispatch(Case):
    class Mode(enum.Enum):
        A = "a"
        B = "b"

    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.mode = EnumDispatch.Mode.B

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return torch.relu(y) if self.mode is EnumDispatch.Mode.A else torch.tanh(y)

    inputs = staticmethod(rows)


class PartialForward(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = nn.Linear(6, 6)
            self.act = functools.partial(F.leaky_relu, negative_slope=0.3)

        def forward(self, x: Tensor) -> Any:
            return self.act(self.f(x))

    inputs = staticmethod(rows)


class ReplacedForward(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            old = self.first.forward
            self.first.forward = lambda x: old(x) * 2

        def forward(self, x: Tensor) -> Any:
            return self.first(x)

    inputs = staticmethod(rows)


class PreHookChangesInput(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.first.register_forward_pre_hook(lambda m, a: (a[0] * 2,))

        def forward(self, x: Tensor) -> Any:
            return torch.relu(self.first(x))  # finding: module-hook

    inputs = staticmethod(rows)


class RootHookChangesOutput(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.register_forward_hook(lambda m, a, o: o + 1)  # finding: root-hook

        def forward(self, x: Tensor) -> Any:
            return self.first(x)

    inputs = staticmethod(rows)


class CheckpointedBlock(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return checkpoint(self.first, x, use_reentrant=False)

    inputs = staticmethod(rows)


class FuncTransform(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return torch.func.vmap(torch.dot)(y, y)  # finding: error

    inputs = staticmethod(rows)
    outcome = "region"


class GradInForward(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            with torch.enable_grad():  # finding: grad-mode
                z = x.detach().requires_grad_(True)
                e = self.first(z).pow(2).sum()
                g = torch.autograd.grad(e, z)[0]  # finding: error
            return x - 0.1 * g

    inputs = staticmethod(rows)
    outcome = "region"


class ContextCustom(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            with torch.amp.autocast("cpu", enabled=False):  # finding: autocast
                y = self.first(x)
            return y

    inputs = staticmethod(rows)


class EnvBranch(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return torch.relu(y) if os.environ.get("FAST_PATH") else torch.tanh(y)

    inputs = staticmethod(rows)


class SetOfNames(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleDict({"a": nn.Linear(6, 6), "b": nn.ReLU()})

        def forward(self, x, taps=("a",)):
            out = {}
            for name, layer in self.layers.items():
                x = layer(x)
                if name in taps:  # finding: unpacking
                    out[name] = x
            return x, out

    inputs = staticmethod(rows)


class SlotState(Case):
    class Box:
        __slots__ = ("n",)

        def __init__(self) -> None:
            self.n = 0

    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.box = SlotState.Box()

        def forward(self, x: Tensor) -> Any:
            self.box.n += 1  # finding: container-update
            return self.first(x) * self.box.n

    inputs = staticmethod(rows)
    outcome = "region"


class NestedListState(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.log = {"a": [[]]}

        def forward(self, x: Tensor) -> Any:
            self.log["a"][0].append(1)  # finding: container-update
            return self.first(x) * len(self.log["a"][0])

    inputs = staticmethod(rows)
    outcome = "region"


class ParameterData(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            self.first.weight.data.clamp_(-0.1, 0.1)  # finding: buffer-update
            return self.first(x)

    inputs = staticmethod(rows)
    outcome = "region"


class SetThenDeleted(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            self.last = x  # finding: attribute-update
            y = self.first(x) + self.last
            del self.last
            return y

    inputs = staticmethod(rows)


class NumberOfAParameter(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Parameter(torch.tensor(1.0))

        def forward(self, x: Tensor) -> Any:
            if self.gate.item() > 0.5:  # finding: tensor-branch, tensor-number
                return self.first(x)
            return x

    inputs = staticmethod(rows)


class WeightNormByHand(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            w = self.first.weight
            return F.linear(x, w / w.norm(dim=1, keepdim=True), self.first.bias)

    inputs = staticmethod(rows)
