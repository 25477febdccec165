"""Attributes that forward updates from what they were: those that each call sets first are no state."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxquant import check_traceable, pipeline
from fxquant.errors import FxquantError
from fxquant.ir.float_part import FloatPart


class Decodes(nn.Module):
    """Keeps its state in attributes while it loops over steps."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRUCell(4, 4), nn.Linear(4, 4)
        self.n: Any = 0

    def forward(self, x: Tensor) -> Tensor:
        self.h = x.new_zeros(x.size(0), 4)
        steps = []
        for t in range(3):
            self.h = self.cell(x[:, t], self.h)
            steps.append(self.out(self.h))
        return torch.stack(steps, 1)


class Accumulates(Decodes):
    """As attention over what was attended to does."""

    def start(self, x: Tensor) -> None:
        self.memory, self.h, self.seen = x, x.new_zeros(x.size(0), 4), x.new_zeros(x.size(0), 4)

    def step(self, t: int) -> Tensor:
        self.h = self.cell(self.memory[:, t], self.h)
        self.seen += self.h
        y: Tensor = self.out(self.seen)
        return y

    def forward(self, x: Tensor) -> Tensor:
        self.start(x)
        return torch.stack([self.step(t) for t in range(3)], 1)


class Collects(Decodes):
    def forward(self, x: Tensor) -> Tensor:
        self.steps = [x]
        for t in range(3):
            self.steps = [*self.steps, self.out(x[:, t : t + 1])]
        return torch.cat(self.steps, 1)


class Normalizes(Decodes):
    """Keeps the mean that it takes away, and adds it again: as RevIN does for series."""

    def normed(self, x: Tensor, back: bool) -> Tensor:
        if back:
            return x * self.scale + self.mean
        self.mean = x.mean(1, keepdim=True).detach()
        self.scale = torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-5).detach()
        return (x - self.mean) / self.scale

    def forward(self, x: Tensor) -> Tensor:
        return self.normed(self.out(self.normed(x, False)), True)


class Counts(Decodes):
    """Remembers that it met a large value, which the example has not."""

    def forward(self, x: Tensor) -> Tensor:
        self.n = self.n + (x.amax() > 100)
        y: Tensor = self.out(x)
        return torch.where(torch.as_tensor(self.n) > 0, -y, y)


class CountsWhereItIsMissing(Decodes):
    def forward(self, x: Tensor) -> Tensor:
        try:
            self.met = self.met + (x.amax() > 100)
        except AttributeError:
            self.met = (x.amax() > 100) * 1
        return torch.where(self.met > 0, -self.out(x), self.out(x))


class CountsWithADefault(Decodes):
    def forward(self, x: Tensor) -> Tensor:
        self.met = getattr(self, "met", 0) + (x.amax() > 100)
        return torch.where(self.met > 0, -self.out(x), self.out(x))


class CountsByType(Decodes):
    def forward(self, x: Tensor) -> Tensor:
        large = (x.amax() > 100) * 1
        self.n = self.n + large if isinstance(self.n, Tensor) else large
        return torch.where(self.n > 0, -self.out(x), self.out(x))


class StartsForSome(Decodes):
    """Goes on from the call before, where there are few rows."""

    def forward(self, x: Tensor) -> Tensor:
        if x.size(0) > 2:
            self.n = x.new_zeros(1, 4)
        self.n = self.n + x.mean(0)[:1]
        y: Tensor = self.out(x) + self.n
        return y


class CountsOnceItIsThere(Decodes):
    def forward(self, x: Tensor) -> Tensor:
        large = (x.amax() > 100) * 1
        if hasattr(self, "met"):
            self.met = self.met + large
        else:
            self.met = large
        return torch.where(self.met > 0, -self.out(x), self.out(x))


class CountsOnceItIsSet(Decodes):
    def __init__(self) -> None:
        super().__init__()
        self.met: Any = None

    def forward(self, x: Tensor) -> Tensor:
        large = (x.amax() > 100) * 1
        if self.met is None:
            self.met = large
        else:
            self.met += large
        return torch.where(self.met > 0, -self.out(x), self.out(x))


class SmoothsOnceItIsSet(CountsOnceItIsSet):
    def forward(self, x: Tensor) -> Tensor:
        if self.met is not None:
            self.met = torch.maximum(self.met, x.amax())
        if self.met is None:
            self.met = x.amax()
        return torch.where(self.met > 100, -self.out(x), self.out(x))


class Holds(Decodes):
    """Keeps the largest value that it met in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.held: Any = {"largest": torch.zeros(())}
        self.steps = [torch.zeros(())]

    def forward(self, x: Tensor) -> Tensor:
        self.held["largest"] = torch.maximum(self.held["largest"], x.amax())
        return torch.where(self.held["largest"] > 100, -self.out(x), self.out(x))


class HoldsInAList(Holds):
    def forward(self, x: Tensor) -> Tensor:
        self.steps[0].add_((x.amax() > 100) * 1.0)
        return torch.where(self.steps[0] > 0, -self.out(x), self.out(x))


class HoldsInAnObject(Holds):
    def __init__(self) -> None:
        super().__init__()
        self.held = SimpleNamespace(largest=torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.held.largest = torch.maximum(self.held.largest, x.amax())
        return torch.where(self.held.largest > 100, -self.out(x), self.out(x))


class ByName(Holds):
    def forward(self, x: Tensor) -> Tensor:
        before = getattr(self, "met", None)
        self.met = x.amax()
        return self.out(x) if before is None else torch.where(before > 100, -self.out(x), self.out(x))


ANEW = [Decodes, Accumulates, Collects, Normalizes]
STATE = [
    Counts, CountsWhereItIsMissing, CountsWithADefault, CountsByType, StartsForSome, CountsOnceItIsThere,
    CountsOnceItIsSet, SmoothsOnceItIsSet, Holds, HoldsInAList, HoldsInAnObject, ByName,
]  # fmt: skip


@pytest.mark.parametrize("kind", ANEW)
def test_what_each_call_sets_first_is_no_state(kind: type[Decodes]) -> None:
    model = kind().eval()
    captured = pipeline.capture(model, (torch.randn(2, 3, 4),))
    assert not any(isinstance(part, FloatPart) for part in captured.modules())
    for rows in (2, 5, 1, 2):
        x = torch.randn(rows, 3, 4)
        assert torch.allclose(captured(x), model(x), atol=1e-6)
    assert any("each call sets it anew" in fact.handled for fact in captured.state.facts)


@pytest.mark.parametrize("kind", STATE)
def test_what_calls_before_decide_is_state(kind: type[Decodes]) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    captured = pipeline.capture(model, (torch.rand(3, 3, 4),))
    for rows, scale in ((3, 1.0), (3, 1000.0), (3, 1.0), (1, 1.0), (1, 2.0)):
        x = scale * torch.rand(rows, 3, 4)
        expected = model(x)
        try:
            found = captured(x)
        except FxquantError:
            continue
        assert torch.allclose(found, expected, atol=1e-4), (rows, scale)


@pytest.mark.parametrize("kind", ANEW)
def test_the_checker_says_so(kind: type[Decodes]) -> None:
    report = check_traceable(kind().eval(), (torch.randn(2, 3, 4),))
    assert report.coverage.mac_share > 0
    assert not [finding for finding in report.findings if finding.severity == "error" and not finding.handled]
