"""Models that ask for facts of their inputs that do not change: rank, dtype, type, presence, mode."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from case import Case
from torch import Tensor, nn


class Convolved(nn.Module):
    """The layer around what fails."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)


class Rank(Case):
    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            if x.dim() == 3:  # finding: static
                x = x.unsqueeze(0)
            return self.conv(x)


class DType(Case):
    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            if x.dtype != torch.float32:  # finding: static
                x = x.float()
            return self.conv(x)


class Device(Case):
    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            if x.device.type == "cuda":  # finding: static
                x = x.half()
            return self.conv(x)


class Contiguity(Case):
    outcome = "region"

    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            if not x.is_contiguous():  # finding: size-branch
                x = x.contiguous()
            return self.conv(x)


class FloatingPoint(Case):
    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            if not torch.is_floating_point(x):  # finding: static
                x = x / 255
            return self.conv(x)


class RequiresGrad(Case):
    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            if x.requires_grad:  # finding: static
                x = x * 1.0
            return self.conv(x)


class IsInstance(Case):
    class before(Convolved):
        def forward(self, x: Tensor | list[Tensor]) -> Tensor:
            if isinstance(x, Tensor):  # finding: type-test
                return self.conv(x)
            return torch.cat([self.conv(part) for part in x])


class IsTensor(Case):
    class before(Convolved):
        def forward(self, x: Any) -> Tensor:
            y = x if torch.is_tensor(x) else torch.stack(x)  # finding: type-test
            return self.conv(y)


class RaisesUnlessTensor(Case):
    class before(Convolved):
        def forward(self, x: Any) -> Tensor:
            if not isinstance(x, Tensor):  # finding: type-test
                raise TypeError("a tensor")
            return self.conv(x)


class HasAttribute(Case):
    class before(Convolved):
        def forward(self, x: Any) -> Tensor:
            if hasattr(x, "to_dense_image"):  # finding: type-test
                x = x.to_dense_image()
            return self.conv(x)


class Flag(Case):
    class before(Convolved):
        def forward(self, x: Tensor, double: bool = False) -> Tensor:
            y = self.conv(x)
            return y * 2 if double else y  # finding: flag

    inputs = staticmethod(lambda: {"x": torch.randn(2, 3, 8, 8), "double": True})


class OptionalMask(Case):
    """The mask is given: the branch that uses it is the one that counts."""

    class before(Convolved):
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            y = self.conv(x)
            if mask is not None:
                y = y * mask
            return y

    inputs = staticmethod(lambda: {"x": torch.randn(2, 3, 8, 8), "mask": torch.rand(2, 1, 8, 8)})


class ListLength(Case):
    outcome = "limited"

    class before(Convolved):
        def forward(self, parts: list[Tensor]) -> Tensor:
            total = self.conv(parts[0])
            for index in range(1, len(parts)):  # finding: size-loop
                total = total + self.conv(parts[index])
            return total

    inputs = staticmethod(lambda: ([torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)],))


class GradientsEnabled(Case):
    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            if torch.is_grad_enabled():  # finding: grad-enabled
                y = y * 1.0
            return y

    class after(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)


class TrainingBranchInEval(Case):
    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return F.dropout(y, 0.5, self.training)  # finding: training


class TrainingBranchInTraining(Case):
    class before(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            if self.training:  # finding: training
                y = y * 1.1
            return y

    class after(Convolved):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    training = True
    same = False


class HiddenByOnes(Case):
    """A mask of ones shows nothing of what the mask is for."""

    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.value = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            scores = self.query(x) @ x.transpose(1, 2)
            scores = scores.masked_fill(attention_mask[:, None] == 0, -1e9)
            return scores.softmax(-1) @ self.value(x)

    inputs = staticmethod(lambda: (torch.randn(2, 5, 6), torch.ones(2, 5, dtype=torch.int64)))


class DropsMaskOfOnes(Case):
    """The same, and the model decides by the values that there is nothing to mask."""

    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.attend = nn.Linear(6, 6), DropsMaskOfOnes.Attend()

        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            return self.attend(self.query(x), attention_mask)

    class Attend(nn.Module):
        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            scores = x @ x.transpose(1, 2)
            if attention_mask.all():  # finding: tensor-branch
                return scores.softmax(-1) @ x
            return scores.masked_fill(attention_mask[:, None] == 0, -1e9).softmax(-1) @ x

    class after(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Linear(6, 6)

        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            x = self.query(x)
            scores = x @ x.transpose(1, 2)
            return scores.masked_fill(attention_mask[:, None] == 0, -1e9).softmax(-1) @ x

    inputs = staticmethod(lambda: (torch.randn(2, 5, 6), torch.ones(2, 5, dtype=torch.int64)))
    outcome = "region"
