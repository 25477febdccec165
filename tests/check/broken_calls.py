"""Models with calls that plain tracing cannot record: factories, unpacking, items, modules in odd places."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from case import Case, rows
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Layer(nn.Module):
    """The layer around what fails."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)


class Zeros(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.first(x), torch.zeros(x.shape[0], 2)], 1)  # finding: factory

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.first(x), torch.zeros((x.shape[0], 2))], 1)

    inputs = staticmethod(rows)
    applied = True


class Arange(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) + torch.arange(x.size(0))[:, None]

    inputs = staticmethod(rows)


class TensorOfSize(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) / torch.tensor(x.shape[0])  # finding: factory

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) / torch.full((), x.shape[0])

    inputs = staticmethod(rows)
    applied = True


class FInfo(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return y.masked_fill(y < 0, torch.finfo(y.dtype).min).softmax(-1)  # finding: static

    inputs = staticmethod(rows)


class ExpandedBuffer(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("token", torch.randn(1, 6))

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) + self.token.expand(x.shape[0], -1)  # finding: factory

    inputs = staticmethod(rows)


class ItemOfConstantIndex(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            y[:, 1] = 0  # finding: item-assignment
            return y * 2

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            y[:, 1].fill_(0)
            return y * 2

    inputs = staticmethod(rows)
    applied = True


class ItemOfMask(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            y[y < 0] = 0.5  # finding: item-assignment
            return y * 2

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            y = y.masked_fill(y < 0, 0.5)
            return y * 2

    inputs = staticmethod(rows)
    applied = True


class StarredTarget(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            batch, *rest = x.shape  # finding: unpacking
            return self.first(x).reshape(batch, 2, rest[0] // 2)

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            batch, rest = x.shape[0], x.shape[1:]
            return self.first(x).reshape(batch, 2, rest[0] // 2)

    inputs = staticmethod(rows)
    applied = True


class StarredArgument(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x).reshape(*x.shape[:1], 2, 3)  # finding: unpacking

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x).reshape(x.shape[0], 2, 3)

    inputs = staticmethod(rows)


class TupleOfShape(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            shape = tuple(x.shape)  # finding: unpacking
            return self.first(x).reshape(shape)

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            shape = x.shape
            return self.first(x).reshape(shape)

    inputs = staticmethod(rows)
    applied = True


class KeywordArguments(Case):
    class before(Layer):
        def forward(self, x: Tensor, **options: Any) -> Tensor:
            y = self.first(x)
            return y * options["gain"] if "gain" in options else y  # finding: unpacking

    inputs = staticmethod(lambda: {"x": torch.randn(4, 6), "gain": torch.tensor(2.0)})


class ModuleMadeInForward(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return nn.ReLU()(self.first(x))  # finding: module-in-forward

    class after(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.first(x))

    inputs = staticmethod(rows)


class SliceOfModules(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))

        def forward(self, x: Tensor) -> Tensor:
            first, rest = self.layers[0], self.layers[1:]  # finding: module-in-forward
            return rest(first(x) * 2)

    class after(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
            self.rest = self.layers[1:]

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(self.layers[0](x) * 2)

    inputs = staticmethod(rows)


class ModulesInList(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(6, 6), nn.Linear(6, 6)]

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)  # finding: module-in-container
            return x

    class after(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

    inputs = staticmethod(rows)
    same = False  # the weights in the list are in no state_dict


class ModulesInDict(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = {"first": nn.Linear(6, 6), "out": nn.Linear(6, 3)}

        def forward(self, x: Tensor) -> Tensor:
            return self.parts["out"](torch.relu(self.parts["first"](x)))  # finding: module-in-container

    class after(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict({"first": nn.Linear(6, 6), "out": nn.Linear(6, 3)})

        def forward(self, x: Tensor) -> Tensor:
            return self.parts["out"](torch.relu(self.parts["first"](x)))

    inputs = staticmethod(rows)
    same = False


class LeafAsRoot(Case):
    before = staticmethod(lambda: nn.BatchNorm2d(3))


class AttentionAsRoot(Case):
    before = staticmethod(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    inputs = staticmethod(lambda: (torch.randn(2, 5, 8),))


class Encoder(Case):
    before = staticmethod(
        lambda: nn.Sequential(
            nn.Linear(6, 8), nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False)
        )
    )
    inputs = staticmethod(lambda: (torch.randn(5, 2, 6),))


class Parallel(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.second = nn.DataParallel(nn.Linear(6, 6))

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)))  # finding: data-parallel

    inputs = staticmethod(rows)


class CompiledChild(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.second = torch.compile(nn.Linear(6, 6), backend="eager")

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)))  # finding: compiled

    inputs = staticmethod(rows)


class Checkpointed(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.first, x, use_reentrant=False) * 2  # finding: checkpoint

    inputs = staticmethod(rows)


class Vectorised(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.squares = Vectorised.Squares()

        def forward(self, x: Tensor) -> Tensor:
            return self.squares(self.first(x))

    class Squares(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.vmap(lambda row: (row * row).sum())(x)  # finding: error

    inputs = staticmethod(rows)
    outcome = "region"


class Scripted(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            with warnings.catch_warnings(action="ignore"):  # it is deprecated
                self.second = torch.jit.trace(nn.Linear(6, 6), torch.randn(4, 6))

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)))  # finding: scripted

    inputs = staticmethod(rows)
    outcome = "region"


class CustomOutput(Case):
    @dataclass
    class Output:
        logits: Tensor
        hidden: Tensor | None = None

    class before(Layer):
        def forward(self, x: Tensor) -> CustomOutput.Output:
            y = self.first(x)
            return CustomOutput.Output(logits=F.relu(y), hidden=y)

    inputs = staticmethod(rows)


class Recurrent(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.memory = nn.LSTM(6, 6, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.memory(self.first(x))
            return y

    inputs = staticmethod(lambda: (torch.randn(2, 5, 6),))


class Wrapped(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return wrapped_gain(self.first(x))

    inputs = staticmethod(rows)


def wrapped_gain(x: Tensor) -> Tensor:
    """Marked for tracers that cannot look inside."""
    return x * 2 if x.shape[-1] == 6 else x


torch.fx.wrap("wrapped_gain")
