"""Other spellings: Python that asks for the values of tensors."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from case import Case, rows
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

STATE = {"calls": 0}
HISTORY: list[Any] = []
SCALE = 1.0
log = logging.getLogger(__name__)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)


class WhileNorm(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            while y.norm() > 1.0:  # finding: tensor-branch
                y = y * 0.5
            return y

    inputs = staticmethod(rows)
    outcome = "region"


class WhileTrueBreak(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            while True:
                y = y * 0.5
                if y.abs().max() < 0.5:  # finding: tensor-branch
                    break
            return y

    inputs = staticmethod(rows)
    outcome = "region"


class AssertAll(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            assert torch.isfinite(x).all(), f"bad input {x}"  # finding: tensor-branch
            return self.first(x)

    inputs = staticmethod(rows)


class ItemInFString(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            log.debug(f"mean is {y.mean().item():.3f}")  # finding: tensor-number
            return y

    inputs = staticmethod(rows)


class Ternary(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            scale = 2.0 if y.mean() > 0 else 0.5  # finding: tensor-branch
            return y * scale

    inputs = staticmethod(rows)
    outcome = "region"


class MatchItem(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            k = int(x[0, 0].item() > 0)  # finding: tensor-number
            match k:
                case 0:  # finding: tensor-branch
                    return y
                case _:
                    return -y

    inputs = staticmethod(rows)
    outcome = "region"


class SortedValues(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            order = sorted(range(6), key=lambda i: float(y[0, i]))  # finding: tensor-number
            return y[:, order]

    inputs = staticmethod(rows)
    outcome = "region"


class SumOfBools(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            n = sum(1 for row in y if row.sum() > 0)  # finding: size-loop, tensor-branch
            return y * n

    inputs = staticmethod(rows)
    outcome = "region"


class TopkLoop(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            k = max(1, int((x > 0).sum()))  # finding: tensor-number
            return y.flatten().topk(k).values.sum() + y

    inputs = staticmethod(rows)


class ExpertRouting(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.gate = nn.Linear(6, 3)
            self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            which = self.gate(y).argmax(-1)
            out = torch.zeros_like(y)
            for i, expert in enumerate(self.experts):
                rows_ = which == i
                if rows_.any():  # finding: tensor-branch
                    out[rows_] = expert(y[rows_])  # finding: item-assignment
            return out

    inputs = staticmethod(rows)
    outcome = "region"


class TryOnTensor(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            try:
                if y.min() < -100:  # finding: tensor-branch
                    raise ValueError("too small")
            except ValueError:
                y = y.clamp(-100)
            return y

    inputs = staticmethod(rows)
    outcome = "region"


class NumpyRoundTrip(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            m = torch.from_numpy(np.tanh(y.detach().numpy()))  # finding: tensor-numpy
            return y + m

    inputs = staticmethod(rows)


class PackedSequence(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.rnn = nn.LSTM(6, 5, batch_first=True)

        def forward(self, x: Tensor, lengths: Any) -> Any:
            x = self.first(x)
            p = pack_padded_sequence(x, lengths, True, enforce_sorted=False)  # finding: plain-tracing
            out, _ = self.rnn(p)
            return pad_packed_sequence(out, batch_first=True)[0]

    inputs = staticmethod(lambda: (torch.randn(3, 5, 6), torch.tensor([5, 3, 2])))


class MaxOfTensors(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return max(y.mean(), x.mean()) + y  # finding: tensor-branch

    inputs = staticmethod(rows)


class IndexByArgmax(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.heads = nn.ModuleList([nn.Linear(6, 2), nn.Linear(6, 2)])

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return self.heads[int(y[0, :2].argmax())](y)  # finding: tensor-number

    inputs = staticmethod(rows)
    outcome = "region"


class CountNonzeroBranch(Case):
    class before(Layer):
        def forward(self, x: Tensor, mask: Any) -> Any:
            y = self.first(x)
            if mask.sum() == mask.numel():  # finding: tensor-branch
                return y
            return y * mask[:, None]

    inputs = staticmethod(lambda: (torch.randn(4, 6), torch.ones(4)))
    outcome = "region"


class BoolAny(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            if any(bool(v) for v in (y > 3).any(dim=1)):  # finding: size-loop, tensor-branch
                y = y.clamp(max=3)
            return y

    inputs = staticmethod(rows)
    outcome = "region"


class TensorInList(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            if x[0, 0] in [1.0, 2.0]:  # finding: tensor-branch
                y = y + 1
            return y

    inputs = staticmethod(rows)
    outcome = "region"


class DictByItem(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            table = {True: 1.0, False: -1.0}
            return y * table[bool(y[0, 0] > 0)]  # finding: tensor-branch

    inputs = staticmethod(rows)
    outcome = "region"


class GeneratorBranch(Case):
    class before(Layer):
        def parts(self, y: Any) -> Any:
            for row in (y, y * 2):
                if row.mean() > 0:  # finding: tensor-branch
                    yield row
                else:
                    yield -row

        def forward(self, x: Tensor) -> Any:
            return sum(self.parts(self.first(x)))

    inputs = staticmethod(rows)
    outcome = "region"


class ClosureBranch(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)

            def gate(t: Any) -> Any:
                if t.mean() > 0:  # finding: tensor-branch
                    return t
                return -t

            return gate(y)

    inputs = staticmethod(rows)
    outcome = "region"


class LambdaBranch(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.gate = lambda t: t if t.mean() > 0 else -t  # finding: tensor-branch

        def forward(self, x: Tensor) -> Any:
            return self.gate(self.first(x))

    inputs = staticmethod(rows)
    outcome = "region"


class PropertyBranch(Case):
    class before(Layer):
        @property
        def factor(self) -> Any:
            if self.first.weight.sum() > 0:  # finding: tensor-branch
                return 2.0
            return 0.5

        def forward(self, x: Tensor) -> Any:
            return self.first(x) * self.factor

    inputs = staticmethod(rows)


class BranchOnBuffer(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("ready", torch.tensor(False))

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            if not self.ready:  # finding: tensor-branch
                self.first.weight.data.mul_(1.0)  # finding: buffer-update
                self.ready.fill_(True)  # finding: buffer-update
            return y

    inputs = staticmethod(rows)
    outcome = "region"


class ActNorm(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("ready", torch.tensor(0))
            self.shift = nn.Parameter(torch.zeros(6))

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            if self.ready.item() == 0:  # finding: tensor-number
                with torch.no_grad():  # finding: grad-mode
                    self.shift.copy_(y.mean(0))  # finding: buffer-update
                self.ready += 1  # finding: buffer-update
            return y - self.shift

    inputs = staticmethod(rows)
    outcome = "region"


class PlacesOfValues(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            found = torch.unique(y.round())  # finding: tensor-shape
            places = torch.where(y > 0)  # finding: tensor-shape
            return y + found.sum() + places[0].sum()

    inputs = staticmethod(rows)


class StateOfOneCall(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            self.total = torch.zeros_like(x)  # finding: attribute-update
            for _ in range(3):
                self.total = self.total + self.first(x)
            return self.total

    inputs = staticmethod(rows)
