"""What parts about sizes may do besides computing: right at every length, or refused; also what they read and hold."""

from __future__ import annotations

import collections
import copy
import functools
import operator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import convert_fx, get_default_qconfig_mapping, pipeline, prepare_fx
from fxquant.errors import FxquantError

Pair = collections.namedtuple("Pair", "n, t")


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("held", torch.ones(4))

    def mean(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x).mean((0, 1))
        return y


class KeptInPartial(Layer):
    def forward(self, x: Tensor) -> Any:
        m = self.mean(x)
        f = functools.partial(torch.mul, m)
        return self.other(x) + (f(m) if x.shape[1] % 2 else 4)


class KeptInPartialOfStatement(Layer):
    def forward(self, x: Tensor) -> Any:
        m = self.mean(x)
        f = functools.partial(torch.mul, m)
        z = f(m) if x.shape[1] % 2 else m
        return self.other(x) + z


class KeptInDefault(Layer):
    def forward(self, x: Tensor) -> Any:
        def f(t: Tensor, n: int = x.shape[0]) -> Tensor:
            return t * n

        z = f(x) if x.shape[1] % 2 else x
        return self.other(x) + z


class KeptInMethodCaller(Layer):
    def forward(self, x: Tensor) -> Any:
        f = operator.methodcaller("mul", self.mean(x))
        z = f(x) if x.shape[1] % 2 else x
        return self.other(x) + z


class KeptInClass(Layer):
    def forward(self, x: Tensor) -> Any:
        class Holder:
            scale = self.mean(x)

        z = x * Holder.scale if x.shape[1] % 2 else x
        return self.other(x) + z


class KeptInArray(Layer):
    def forward(self, x: Tensor) -> Any:
        k = np.array([x.shape[0], 2])
        z = float(k[0]) if x.shape[1] % 2 else 4
        return self.other(x) * z


class KeptInTuples(Layer):
    def forward(self, x: Tensor) -> Any:
        pair, seen = Pair(x.shape[0], x), collections.deque([x.shape[0]], maxlen=2)
        z = pair.t * pair.n if x.shape[1] % 2 else pair.t * seen[0]
        return self.other(x) + z


class FillsAList(Layer):
    def forward(self, x: Tensor) -> Any:
        seen: list[int] = []
        y = self.linear(x) * (seen.append(1) or 2 if x.shape[1] % 2 else 3)  # type: ignore[func-returns-value]
        return y * (len(seen) + 1)


class FillsADict(Layer):
    def forward(self, x: Tensor) -> Any:
        known = {"a": 1}
        y = self.linear(x) * (known.setdefault("b", 5) if x.shape[1] % 2 else 3)
        return y * sum(known.values())


class WritesWithoutUse(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        y.add_(1) if x.shape[1] % 2 else None
        return self.other(y) + y


class WritesAndForgets(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        z = y[:, 0]
        _ = z.add_(1) if x.shape[1] % 2 else z
        return y


class WritesThroughAName(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if x.shape[1] % 2:
            t = y
            t *= 2
        return self.other(x) + y


class WritesABuffer(Layer):
    def forward(self, x: Tensor) -> Any:
        v = self.held[:] if x.shape[1] % 2 else self.held.clone()
        v += 1
        return self.linear(x) * v


class InPlaceOrNot(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        (F.relu_ if x.shape[1] % 2 else F.relu)(y)
        return y


class InPlaceArgument(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        F.relu(y, inplace=x.shape[1] % 2 == 1)
        return y


class InPlaceMethod(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        f = y.relu_ if x.shape[1] % 2 else y.relu
        f()
        return y


class InADict(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        z = {"a": y} if x.shape[1] % 2 else {"a": y + 1}
        z["a"].mul_(2)
        return y


class OtherRank(Layer):
    def forward(self, x: Tensor) -> Any:
        z = x[0] if x.shape[1] % 2 else x
        return self.linear(z) * (2 if z.ndim == 2 else 3)


class OtherDtype(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        z = y.double() if x.shape[1] % 2 else y
        return y + 1 if z.dtype == torch.float64 else y


class ChosenDtype(Layer):
    def forward(self, x: Tensor) -> Any:
        kind = torch.float64 if x.shape[1] % 2 else torch.float32
        y = self.linear(x).to(kind)
        return y * (2 if y.dtype == torch.float64 else 3)


class OtherOrder(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        y = y.transpose(1, 2) if x.shape[1] % 2 else y
        return y * (2 if y.is_contiguous() else 3)


class IsWhatItWasGiven(Layer):
    def forward(self, x: Tensor) -> Any:
        z = F.pad(x, (0, 0, 0, 1)) if x.shape[1] % 2 else x
        y = self.linear(z)
        if z is not x:
            y = y[:, :-1]
        return y


KINDS = [
    KeptInPartial, KeptInPartialOfStatement, KeptInDefault, KeptInMethodCaller, KeptInClass, KeptInArray, KeptInTuples,
    FillsAList, FillsADict, WritesWithoutUse, WritesAndForgets, WritesThroughAName, WritesABuffer, InPlaceOrNot,
    InPlaceArgument, InPlaceMethod, InADict, OtherRank, OtherDtype, ChosenDtype, OtherOrder, IsWhatItWasGiven,
]  # fmt: skip
REFUSED = {
    KeptInPartial, KeptInPartialOfStatement, KeptInDefault, KeptInMethodCaller, KeptInClass, KeptInArray, FillsAList,
    FillsADict, InPlaceOrNot, InPlaceArgument, InPlaceMethod, OtherRank, OtherDtype, ChosenDtype, OtherOrder,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("example", [6, 7])
def test_right_or_refused_at_every_length(kind: type[Layer], example: int) -> None:
    model = kind().eval()
    captured = pipeline.capture(model, (torch.randn(2, example, 4),))
    for length in (6, 7, 1, 4, 9):
        x = torch.randn(3, length, 4)
        want = copy.deepcopy(model)(x.clone())
        try:
            got = copy.deepcopy(captured)(x.clone())
        except FxquantError:
            assert kind in REFUSED and (length % 2 != example % 2 or length == 1), length
            continue
        assert torch.allclose(got, want, atol=1e-5), length


def test_what_is_written_for_some_lengths_is_not_read_from_before_in_int8() -> None:
    model = WritesWithoutUse().eval()
    prepared = prepare_fx(model, get_default_qconfig_mapping(), (torch.randn(2, 6, 4),))
    for length in (6, 7):
        prepared(torch.randn(8, length, 4))
    converted = convert_fx(prepared)
    for length in (6, 7):
        x = torch.randn(2, length, 4)
        assert (converted(x) - model(x)).abs().max() < 0.15
