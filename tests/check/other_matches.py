"""Other ways: match statements, errors that are caught, hooks and functions that refer to their model."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from case import Case, rows
from torch import Tensor, nn


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)


class MatchOfShape(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            match x.shape:
                case (count, 6):  # finding: unpacking
                    y = self.first(x) * count
                case _:
                    y = x
            return self.second(y)

    inputs = staticmethod(rows)


class MatchOfType(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            match y:
                case list() | tuple():  # finding: type-test
                    y = y[0]
                case Tensor(ndim=2):  # finding: type-test
                    y = y * 2
            return self.second(y)

    inputs = staticmethod(rows)


class MatchOfNumber(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            match x.shape[0]:
                case int(count) if count > 8:
                    y = y * 2
                case 4:  # finding: size-branch
                    y = y * 3
            return self.second(y)

    inputs = staticmethod(rows)
    outcome = "region"


class MatchOfDictionary(Case):
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"y": self.linear(x), "count": x.shape[0]}

    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = MatchOfDictionary.Pair()

        def forward(self, x: Tensor) -> Tensor:
            match self.pair(x):
                case {"y": _, "mask": mask}:
                    return mask
                case {"y": y, "count": count}:
                    return y * count

    inputs = staticmethod(rows)


class CaughtShape(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            try:
                y = y.view(-1, 3, 6).sum(1).repeat(3, 1)  # finding: caught-error
            except RuntimeError:
                y = y * 2
            return self.second(y)

    class after(Layer):
        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x) * 2)

    inputs = staticmethod(rows)
    outcome = "region"


class CaughtElsewhere(Case):
    class before(Layer):
        def folded(self, x: Tensor) -> Tensor:
            return x.view(-1, 3, 6).sum(1).repeat(3, 1)  # finding: caught-error

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            with contextlib.suppress(RuntimeError):
                y = self.folded(y)
            return self.second(y)

    inputs = staticmethod(rows)
    outcome = "region"


class ClosesOverModel(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.act = lambda x: self.second(x).relu()

        def forward(self, x: Tensor) -> Any:
            return self.act(self.first(x))

    inputs = staticmethod(rows)


class BranchInFunctionOfModel(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()

            def act(x: Tensor) -> Tensor:
                x = self.second(x)
                if x.sum() > 0:  # finding: tensor-branch
                    x = x * 2
                return x

            self.act = act

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.first(x))

    inputs = staticmethod(rows)
    outcome = "region"


class HookCounts(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

            def scale(module: nn.Module, args: Any, output: Tensor) -> Tensor:
                self.calls += 1  # finding: attribute-update
                return output * self.calls

            self.second.register_forward_hook(scale)

        def forward(self, x: Tensor) -> Any:
            return self.second(self.first(x))

    inputs = staticmethod(rows)
    outcome = "region"


class HookCollects(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Any] = []
            self.second.register_forward_hook(lambda m, a, output: self.seen.append(output.shape))  # finding: container-update  # fmt: skip  # noqa: E501

        def forward(self, x: Tensor) -> Any:
            return self.second(self.first(x))  # finding: module-hook

    inputs = staticmethod(rows)


class GradientHookInEval(Case):
    @staticmethod
    def before() -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
        model[2].register_full_backward_hook(lambda module, inner, outer: tuple(item * 2 for item in inner))
        return model

    inputs = staticmethod(rows)
    of_model = ("module-hook",)


class GradientHookInTraining(GradientHookInEval, Case):
    training = True


class HookOnTensor(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            if y.requires_grad:
                y.register_hook(lambda gradient: gradient * 2)  # finding: opaque-call
            return self.second(torch.relu(y))

    inputs = staticmethod(rows)
    outcome = "region"
    training = True


class ForwardFromElsewhere(Case):
    @staticmethod
    def scaled_by_calls(self: Any, x: Tensor) -> Any:
        self.calls += 1  # finding: attribute-update
        return self.second(self.first(x)) * self.calls

    class before(Layer):
        calls = 0

    inputs = staticmethod(rows)
    outcome = "region"


class SparseProduct(Case):
    class before(Layer):
        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            rows = torch.arange(x.shape[0])
            diagonal = torch.sparse_coo_tensor(torch.stack([rows, rows]), torch.ones(x.shape[0]))  # finding: factory
            return self.second(torch.sparse.mm(diagonal, y))

    inputs = staticmethod(rows)


class StateInTheMiddle(Case):
    class before(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.steps = 0

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            self.steps += 1  # finding: attribute-update
            scale = 1.0 if self.steps < 2 else 2.0
            return self.second(torch.relu(y) * scale)

    inputs = staticmethod(rows)
    outcome = "region"


class HeadByText(Case):
    class before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.heads = nn.ModuleDict({"head0": nn.Linear(6, 6), "head1": nn.Linear(6, 6)})

        def forward(self, x: Tensor) -> Any:
            y = self.first(x)
            name = f"head{int(y.sum() > 0)}"  # finding: tensor-number
            return self.heads[name](y)  # finding: tensor-number, tensor-branch

    inputs = staticmethod(rows)
    outcome = "region"


ForwardFromElsewhere.before.forward = ForwardFromElsewhere.scaled_by_calls  # type: ignore[attr-defined]
