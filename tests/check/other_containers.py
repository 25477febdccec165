"""Other spellings: modules in containers, outputs of all kinds, switches."""

from __future__ import annotations

import contextlib
import functools
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from case import Case, rows
from other_calls import Layer
from torch import Tensor, nn


class ListOfModules(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(6, 6), nn.Linear(6, 6)]
            self.acts = (nn.ReLU(), nn.Tanh())

        def forward(self, x: Tensor) -> Any:
            for layer, act in zip(self.layers, self.acts, strict=True):
                x = act(layer(x))  # finding: module-in-container
            return x

    inputs = staticmethod(rows)


class NestedDictOfModules(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cfg = {"enc": {"a": nn.Linear(6, 6)}, "dec": [nn.Linear(6, 3)]}

        def forward(self, x: Tensor) -> Any:
            x = self.cfg["enc"]["a"](x)  # finding: module-in-container
            return self.cfg["dec"][0](torch.relu(x))  # finding: module-in-container

    inputs = staticmethod(rows)


class ModuleInForwardWithWeights(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            torch.manual_seed(0)  # finding: torch-random
            head = nn.Linear(6, 2)  # finding: module-in-forward, torch-random
            return head(self.first(x))

    inputs = staticmethod(rows)
    outcome = "region"


class StarArgs(Case):
    class before(Layer):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            x, y = args
            return self.first(x) + y * kwargs.get("scale", 1.0)

    inputs = staticmethod(lambda: (torch.randn(4, 6), torch.randn(4, 6)))


class KwOnly(Case):
    class before(Layer):
        def forward(self, x: Tensor, *, mask: Any = None, flag: Any = False) -> Any:
            y = self.first(x)
            if mask is not None:
                y = y.masked_fill(mask == 0, 0.0)
            return -y if flag else y

    inputs = staticmethod(lambda: {"x": torch.randn(4, 6), "mask": torch.ones(4, 6), "flag": True})


class DataclassOut(Case):
    @dataclass
    class Out:
        a: Any
        n: int

    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return DataclassOut.Out(y, x.shape[0])

    inputs = staticmethod(rows)


class ReturnsSizes(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return {"y": y, "shape": y.shape, "n": len(x), "dtype": str(y.dtype)}  # finding: size

    inputs = staticmethod(rows)


class NamedTupleOut(Case):
    class Pair(NamedTuple):
        y: Any
        z: Any = None

    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return NamedTupleOut.Pair(self.first(x))

    inputs = staticmethod(rows)


class GeneratorOut(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

        def run(self, x: Tensor) -> Any:
            for b in self.blocks:
                x = b(x)
                yield x

        def forward(self, x: Tensor) -> Any:
            return list(self.run(x))

    inputs = staticmethod(rows)


class GetattrModule(Case):
    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def __getattr__(self, name: Any) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("inner"), name)

        def forward(self, x: Tensor) -> Any:
            return F.linear(x, self.weight, self.bias)

    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = GetattrModule.Wrapper(nn.Linear(6, 6))

        def forward(self, x: Tensor) -> Any:
            return torch.relu(self.w(x))

    inputs = staticmethod(rows)


class TiedWeights(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb = nn.Embedding(10, 6)
            self.out = nn.Linear(6, 10, bias=False)
            self.out.weight = self.emb.weight

        def forward(self, ids: Any) -> Any:
            return self.out(torch.tanh(self.emb(ids)))

    inputs = staticmethod(lambda: (torch.randint(0, 10, (2, 4)),))


class SharedModule(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return self.first(torch.relu(self.first(x)))

    inputs = staticmethod(rows)


class RecursiveCall(Case):
    class before(Layer):
        def step(self, x: Tensor, depth: Any) -> Any:
            return x if depth == 0 else self.step(torch.relu(self.first(x)), depth - 1)

        def forward(self, x: Tensor) -> Any:
            return self.step(x, 3)

    inputs = staticmethod(rows)


class ExceptTensor(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            try:
                k = {0: 1.0, 1: 2.0}[int(x.sum().item())]  # finding: tensor-number
            except KeyError:
                k = 0.5
            return y * k

    inputs = staticmethod(rows)
    outcome = "region"


class WithStatementCustom(Case):
    class before(Layer):
        @contextlib.contextmanager
        def scaled(self) -> Any:
            yield 2.0

        def forward(self, x: Tensor) -> Any:
            with self.scaled() as s:
                return self.first(x) * s

    inputs = staticmethod(rows)


class StackLoop(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(6, 6)

        def forward(self, x: Tensor) -> Any:
            h = x.new_zeros(x.size(0), 6)
            out = []
            for t in range(x.size(1)):  # finding: size-loop
                h = self.cell(x[:, t], h)
                out.append(h)
            return torch.stack(out, 1)

    inputs = staticmethod(lambda: (torch.randn(2, 5, 6),))
    outcome = "limited"


class TrainingSwitch(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return y + torch.randn_like(y) if self.training else y  # finding: training

    inputs = staticmethod(rows)


class TrainingNested(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            noise = 0.1 * self.training  # finding: training
            return y + noise

    inputs = staticmethod(rows)
    training = True


class MaskHidden(Case):
    class before(Layer):
        def forward(self, x: Tensor, attention_mask: Any) -> Any:
            y = self.first(x)
            if attention_mask.all():  # finding: tensor-branch
                return y.softmax(-1)
            return y.masked_fill(attention_mask[..., None] == 0, -1e9).softmax(-1)

    inputs = staticmethod(lambda: (torch.randn(2, 5, 6), torch.ones(2, 5, dtype=torch.long)))
    outcome = "region"


class ValuesField(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return y.sort(-1).values + y.max(-1, keepdim=True).values + y.topk(2).values.sum()

    inputs = staticmethod(rows)


class ItemsField(Case):
    class before(Layer):
        def forward(self, d: Any) -> Any:
            return sum(self.first(v) for k, v in d.items())  # finding: unpacking

    inputs = staticmethod(lambda: ({"a": torch.randn(4, 6), "b": torch.randn(4, 6)},))


class WarnOnce(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            if x.abs().max() > 1e6:  # finding: tensor-branch
                warnings.warn("large", stacklevel=2)
            return self.first(x)

    inputs = staticmethod(rows)


class ModuleInPartial(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = functools.partial(nn.Linear(6, 6))

        def forward(self, x: Tensor) -> Any:
            return torch.relu(self.project(x))  # finding: module-in-container

    inputs = staticmethod(rows)


class ModuleInFunction(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.Linear(6, 6)
            self.project = lambda x: layer(x) * 2  # finding: module-in-container
            made = [layer]
            self.unused = lambda: made  # noqa: F821
            del made

        def forward(self, x: Tensor) -> Any:
            return torch.relu(self.project(x))

    inputs = staticmethod(rows)
