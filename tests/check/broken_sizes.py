"""Models that make Python numbers, branches, loops and constants of sizes."""

from __future__ import annotations

import math
import string

import torch
import torch.nn.functional as F
from case import Case, rows
from torch import Tensor, nn

WRITER = string.Formatter()
SCALES = {str(number): torch.tensor(1.0 / number) for number in range(1, 65)}


class Convolved(nn.Module):
    """The layer around what fails."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)


class BranchOnBatch(Case):
    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            if x.shape[0] > 3:  # finding: size-branch
                y = y * 2
            return y

    class after(Convolved):
        def __init__(self, large: bool = False) -> None:
            super().__init__()
            self.large = large

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            if self.large:
                y = y * 2
            return y

    outcome = "limited"


class BranchOnWidth(Case):
    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            if x.size(-1) % 2 == 1:  # finding: size-branch
                y = F.pad(y, (0, 1))
            return y

    class after(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            return F.pad(self.conv(x), (0, 1))[..., : x.size(-1)]

    outcome = "region"


class BranchOnRank(Case):
    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            if len(x.shape) == 3:  # finding: unpacking
                x = x[None]
            return self.conv(x)


class AssertOnChannels(Case):
    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[1] == 3, "three channels"  # finding: size-branch
            return self.conv(x)

    class after(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            torch._assert(x.shape[1] == 3, "three channels")
            return self.conv(x)

    applied = True


class IntOfSize(Case):
    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            half = int(x.shape[2] * 0.5)  # finding: size
            return self.conv(x)[:, :, :half]

    class after(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            half = x.shape[2] // 2
            return self.conv(x)[:, :, :half]

    applied = True


class IntOfQuotient(Case):
    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            return F.adaptive_avg_pool2d(self.conv(x), int(x.shape[2] / 2))  # finding: size

    class after(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            return F.adaptive_avg_pool2d(self.conv(x), x.shape[2] // 2)

    applied = True


class CeilOfSize(Case):
    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)[..., : math.ceil(x.shape[3] / 3)]

    class after(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)[..., : -(-x.shape[3] // 3)]


class RoundOfSize(Case):
    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y[..., : round(x.shape[3] * 0.3)]  # finding: size

    class after(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)[..., : (x.shape[3] * 3 + 5) // 10]

    same = False  # halves round differently


class LenOfTensor(Case):
    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) / len(x)  # finding: size

    class after(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) / x.shape[0]

    applied = True


class LoopOverRange(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            state, states = x[:, 0], []
            for step in range(x.size(1)):  # finding: size-loop
                state = torch.tanh(self.cell(state) + x[:, step])
                states.append(state)
            return torch.stack(states, 1)

    class after(nn.Module):
        def __init__(self, steps: int = 5) -> None:
            super().__init__()
            self.cell, self.steps = nn.Linear(6, 6), steps

        def forward(self, x: Tensor) -> Tensor:
            state, states = x[:, 0], []
            for step in range(self.steps):
                state = torch.tanh(self.cell(state) + x[:, step])
                states.append(state)
            return torch.stack(states, 1)

    inputs = staticmethod(lambda: (torch.randn(2, 5, 6),))
    outcome = "limited"


class LoopOverTensor(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.layer(row) for row in x])  # finding: size-loop

    class after(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    inputs = staticmethod(rows)
    outcome = "limited"
    same = False  # one product of matrices instead of four rounds differently


class SliceOfConstant(Case):
    """A table that is no buffer, cut to the length of the input."""

    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)
            self.table = [torch.arange(40.0)]

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + self.table[0][: x.shape[0], None]  # finding: size

    class after(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)
            self.register_buffer("table", torch.arange(40.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + self.table[: x.shape[0], None]

    inputs = staticmethod(rows)


class SizeAsText(Case):
    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            self_name = f"{x.shape[0]} images"  # finding: format
            return self.conv(x) if self_name else x

    class after(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    outcome = "limited"


class SizeInMessage(Case):
    """Text for people chooses nothing."""

    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            torch._assert(x.shape[1] == 3, f"{x.shape[1]} channels in {x.shape[0]} images")  # finding: format
            return self.conv(x)


class TableBySize(Case):
    """A dictionary with a size as its key."""

    class before(Convolved):
        gains = {8: 1.0, 9: 2.0, 16: 3.0}  # noqa: RUF012

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) * self.gains.get(int(x.shape[-1]), 0.5)  # finding: size-branch

    class after(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    outcome = "region"


class SquareRootOfSize(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            side = int(x.shape[1] ** 0.5)  # finding: size
            return self.layer(x).transpose(1, 2).reshape(x.shape[0], 6, side, side)

    class after(nn.Module):
        def __init__(self, side: int = 3) -> None:
            super().__init__()
            self.layer, self.side = nn.Linear(6, 6), side

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).transpose(1, 2).reshape(x.shape[0], 6, self.side, self.side)

    inputs = staticmethod(lambda: (torch.randn(2, 9, 6),))


class LooksUpText(Case):
    """What a size as text looks up is found anew at every call."""

    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y * SCALES[str(x.shape[0])] * len(str([*x.shape]))  # finding: format

    outcome = "region"


class HeadByText(Case):
    """A module with weights is chosen by a size as text."""

    class before(Convolved):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleDict({f"at_{size}": nn.Conv2d(4, 4, 1) for size in (8, 9, 16)})

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.heads[f"at_{x.shape[-1]}"](y)  # finding: format

    outcome = "limited"


class ConstantBySizeAsText(Case):
    """What a size as text looks up is a tensor that the graph keeps; who made the text is not the user's code."""

    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y * SCALES[WRITER.format("{}", x.shape[0])]  # finding: size-constant

    class after(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) / x.shape[0]

    outcome = "limited"
