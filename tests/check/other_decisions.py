"""Decisions and numbers in spellings whose fix is a change of one statement, and where that has to give the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from case import Case, rows
from other_calls import Layer
from torch import Tensor, nn


class LargestOfThree(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return y * max(y.mean(), y.std(), y.amin())  # finding: tensor-branch

    inputs = staticmethod(rows)
    applied = True


class LargestOfList(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return y * max([y.mean(), y.std()])  # finding: tensor-branch

    inputs = staticmethod(rows)
    applied = True


class LargerThanSetting(Case):
    class before(Layer):
        limit = 0.5

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return y / max(y.std(), self.limit)  # finding: tensor-branch

    inputs = staticmethod(rows)
    applied = True


class ValueOrNumber(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            scale = y.abs().max()
            scale = scale or 1.0  # finding: tensor-branch
            return y / scale

    inputs = staticmethod(rows)
    outcome = "region"
    applied = True


class ValueOrValue(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return y * (y.max() or y.min())  # finding: tensor-branch

    inputs = staticmethod(rows)
    outcome = "region"
    applied = True


class TensorOfTensor(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            return y * torch.tensor([y.mean(), y.std()]).sum()  # finding: tensor-number

    inputs = staticmethod(rows)
    applied = True


class NumpyOfSize(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return self.first(x) / np.prod(x.shape)  # finding: tensor-numpy

    inputs = staticmethod(rows)
    applied = True


class OldTensorClass(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return self.first(x) * torch.Tensor([x.shape[0]])  # finding: error

    inputs = staticmethod(rows)
    outcome = "region"
    applied = True


class NormOfItsInput(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            return nn.LayerNorm(x.shape[-1])(self.first(x))  # finding: module-in-forward

    class after(Layer):
        def forward(self, x: Tensor) -> Any:
            return nn.functional.layer_norm(self.first(x), (x.shape[-1],))

    inputs = staticmethod(rows)
    outcome = "region"


class NumberOnSeveralLines(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            # fmt: off
            scale = (
                y.abs()
                .max()
                .item()  # finding: tensor-number
            )
            # fmt: on
            return y / scale

    inputs = staticmethod(rows)
    applied = True


class BothSizesAsserted(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            assert x.shape[0] % 2 == 0 and x.shape[1] == 6, "even batches"
            return self.first(x)

    inputs = staticmethod(rows)
    outcome = "whole"


class PrintedWithDigits(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            print(f"max {y.max():.3f}")  # finding: tensor-number
            return y

    inputs = staticmethod(rows)


class TrainingWithState(Case):
    """Error for QAT, which follows both modes."""

    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("centre", torch.zeros(6))

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            if self.training:  # finding: training
                centre = y.mean(0)
                self.centre.mul_(0.9).add_(0.1 * centre.detach())  # finding: buffer-update
                return y - centre
            return y - self.centre

    inputs = staticmethod(rows)
    training = True


class NoneOrMask(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            mask = None
            if y.max() > 50:  # finding: tensor-branch, hidden-case
                mask = y > 50
            return y if mask is None else y.masked_fill(mask, 0)

    inputs = staticmethod(rows)
    outcome = "region"


class WritesIntoWhatItMakes(Case):
    """Local containers, and tensors made anew, may be written into where the example does not come."""

    class before(Layer):
        flag = False

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            if self.flag:
                out = {}
                out["y"] = y
                table = torch.zeros(4, 6)
                table[0] = 1.0
                y = out["y"] + table
            return y

    inputs = staticmethod(rows)


class UnreachedDecision(Case):
    class before(Layer):
        flag = False

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            if self.flag:
                if y.sum() > 0:  # finding: unreached
                    y = y * 2
                y = y * torch.tensor(y.mean())  # finding: unreached
            return y

    inputs = staticmethod(rows)


class ElseIf(Case):
    """The edit of an ``elif`` is one of the whole chain."""

    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            m = y.abs().max()
            if m > 10:  # finding: tensor-branch
                scale = 0.1 * m
            elif m > 1:  # finding: tensor-branch
                scale = 0.5 * m
            else:
                scale = 1.0 * m
            return y * scale

    inputs = staticmethod(rows)
    outcome = "region"
    applied = True


class UnpackedOnce(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            first, *rest = self.first(x).unbind(1)  # finding: unpacking
            return first * rest[0]

    inputs = staticmethod(rows)
    applied = True


class AllOfMap(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            if all(map(lambda part: part.sum() > -99, y.split(2, 1))):  # noqa: C417 # finding: tensor-branch
                y = y * 2
            return y

    inputs = staticmethod(rows)
    outcome = "region"
    applied = True


class MaskOrNothing(Case):
    """What is asked for is the mask's value, not whether there is one."""

    class before(Layer):
        def forward(self, x: Tensor, mask: Any = None) -> Any:
            y = self.first(x)
            if mask is None or mask.all():  # finding: tensor-branch
                return y
            return y * mask

    inputs = staticmethod(lambda: (torch.randn(4, 6), torch.ones(4, 6, dtype=torch.bool)))
    outcome = "region"
