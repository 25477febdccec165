"""Models whose forward changes what outlives it, or that have hooks."""

from __future__ import annotations

import torch
from broken_effects import Layer
from case import Case, rows
from torch import Tensor, nn

CALLS = 0


class Counter(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.counted = nn.Linear(6, 6), Counter.Counted()

        def forward(self, x: Tensor) -> Tensor:
            return self.counted(self.first(x))

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1  # finding: attribute-update
            return x * self.calls

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x)

    inputs = staticmethod(rows)
    outcome = "region"


class Cached(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.kept = nn.Linear(6, 6), Cached.Kept()

        def forward(self, x: Tensor) -> Tensor:
            return self.kept(self.first(x))

    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            y = x if self.last is None else x + self.last
            self.last = x  # finding: attribute-update
            return y

    class after(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)

        def forward(self, x: Tensor, last: Tensor | None = None) -> Tensor:
            y = self.first(x)
            return y if last is None else y + last

    inputs = staticmethod(rows)
    outcome = "region"


class CachedInDict(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.biased = nn.Linear(6, 6), CachedInDict.Biased()

        def forward(self, x: Tensor) -> Tensor:
            return self.biased(self.first(x))

    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.known: dict[int, Tensor] = {}

        def forward(self, x: Tensor) -> Tensor:
            size = x.shape[0]
            if size not in self.known:  # finding: size
                self.known[size] = torch.ones(size, 1)  # finding: container-update
            return x + self.known[size]  # finding: size-branch

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) + torch.ones((x.shape[0], 1))

    inputs = staticmethod(rows)
    outcome = "region"


class Appended(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.log = nn.Linear(6, 6), Appended.Log()

        def forward(self, x: Tensor) -> Tensor:
            return self.log(self.first(x))

    class Log(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(x.detach())  # finding: container-update
            return x

    class after(Layer):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.first(x)
            return y, y.detach()

    inputs = staticmethod(rows)
    same = False


class BufferCounts(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.mean = nn.Linear(6, 6), BufferCounts.Mean()

        def forward(self, x: Tensor) -> Tensor:
            return self.mean(self.first(x))

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("running", torch.zeros(6))

        def forward(self, x: Tensor) -> Tensor:
            self.running += 0.1 * (x.mean(0) - self.running)  # finding: buffer-update
            return x - self.running

    class after(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.register_buffer("running", torch.zeros(6))

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) - self.running

    inputs = staticmethod(rows)
    same = False


class BufferCopied(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.keep = nn.Linear(6, 6), BufferCopied.Keep()

        def forward(self, x: Tensor) -> Tensor:
            return self.keep(self.first(x))

    class Keep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("last", torch.zeros(4, 6))

        def forward(self, x: Tensor) -> Tensor:
            y = x + self.last
            self.last.copy_(x)  # finding: buffer-update
            return y

    class after(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)

        def forward(self, x: Tensor, last: Tensor | None = None) -> Tensor:
            y = self.first(x)
            return y if last is None else y + last

    inputs = staticmethod(rows)


class GlobalCounter(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.counted = nn.Linear(6, 6), GlobalCounter.Counted()

        def forward(self, x: Tensor) -> Tensor:
            return self.counted(self.first(x))

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            global CALLS
            CALLS += 1  # finding: global-update
            return x

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x)

    inputs = staticmethod(rows)


class ClassCounter(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.counted = nn.Linear(6, 6), ClassCounter.Counted()

        def forward(self, x: Tensor) -> Tensor:
            return self.counted(self.first(x))

    class Counted(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            type(self).calls += 1  # finding: global-update
            return x

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x)

    inputs = staticmethod(rows)


class WritesIntoInput(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            x += 1  # finding: input-update
            return self.first(x)

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            x = x + 1
            return self.first(x)

    inputs = staticmethod(rows)
    applied = True


class WritesIntoPartOfInput(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            x[:, 0].mul_(2)  # finding: input-update
            return self.first(x)

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            x = x.clone()
            x[:, 0].mul_(2)
            return self.first(x)

    inputs = staticmethod(rows)
    applied = True


class HookOnRoot(Case):
    @staticmethod
    def before() -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        model.register_forward_hook(lambda module, args, output: output * 2)  # finding: root-hook
        return model

    after = staticmethod(lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU()))
    inputs = staticmethod(rows)
    same = False


class HookOnLayer(Case):
    @staticmethod
    def before() -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        model[0].register_forward_hook(lambda module, args, output: output + 1)
        return model

    after = staticmethod(lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU()))
    inputs = staticmethod(rows)
    same = False


class HookBeforeLayer(Case):
    @staticmethod
    def before() -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        model[0].register_forward_pre_hook(lambda module, args: (args[0] * 3,))
        return model

    after = staticmethod(lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU()))
    inputs = staticmethod(rows)
    same = False


class WeightNorm(Case):
    before = staticmethod(lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), nn.ReLU()))
    inputs = staticmethod(rows)


class WritesIntoScratch(Case):
    """A tensor in a plain list: for a graph it is a number of the example's."""

    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.scratch = [torch.zeros(4, 6)]

        def forward(self, x: Tensor) -> Tensor:
            y = self.scratch[0]
            y.copy_(x.sigmoid())  # finding: write-to-constant, container-update
            return self.first(y)

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = x.new_zeros(x.shape)
            y.copy_(x.sigmoid())
            return self.first(y)

    inputs = rows
    outcome = "region"
