"""What fixes say where no change of one statement is right, and that none is offered then."""

from __future__ import annotations

import random
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxquant.check import Finding, FindingKind, check_traceable

ROWS = (torch.randn(4, 6),)
ROUTED = (*ROWS, torch.tensor(1))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)


def found(model: nn.Module, kind: FindingKind, inputs: Any = ROWS) -> Finding:
    """The finding of a kind in a model."""
    torch.manual_seed(0)
    report = check_traceable(model.eval(), inputs)
    return next(item for item in report.findings if item.kind is kind)


class PickedRows(Layer):
    def forward(self, x: Tensor) -> Any:
        picked = x[x[:, 0] > 0]
        if picked.numel() == 0:
            picked = torch.zeros(1, 6)
        return self.first(picked)


class MaskOrNone(Layer):
    def forward(self, x: Tensor) -> Any:
        mask = None if bool((x > -9).all()) else x
        return self.first(x) if mask is None else self.first(x) * mask


class MaskWrittenAsNone(Layer):
    def forward(self, x: Tensor) -> Any:
        mask: Any = x
        if (x > -9).all():
            mask = None
        return self.first(x) if mask is None else self.first(x) * mask


class RepeatedList(Layer):
    def forward(self, x: Tensor) -> Any:
        return self.first(x) + torch.tensor([0, 1] * (x.shape[0] // 2))[:, None]


class Exit(Exception):
    def __init__(self, value: Tensor) -> None:
        self.value = value


class RaisedWithValue(Layer):
    def forward(self, x: Tensor) -> Any:
        try:
            return self.outer(self.first(x))
        except Exit as early:
            return early.value

    def outer(self, x: Tensor) -> Tensor:
        if x.max() > 1e6:
            raise Exit(x * 0.1)
        return x


class RaisedAndCaught(Layer):
    def forward(self, x: Tensor) -> Any:
        try:
            return self.outer(self.first(x))
        except OverflowError:
            return torch.zeros_like(x)

    def outer(self, x: Tensor) -> Tensor:
        if x.max() > 1e6:
            raise OverflowError("too large")
        return x


class SeededInForward(Layer):
    def forward(self, x: Tensor) -> Any:
        numbers = random.Random(3)
        return self.first(x) * numbers.random()


class ComparedLater(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        largest = y.max().item()
        if largest > 0.5:
            y = torch.relu(y)
        return y


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (RaisedWithValue, FindingKind.TENSOR_BRANCH),
        (RaisedAndCaught, FindingKind.TENSOR_BRANCH),
        (PickedRows, FindingKind.TENSOR_BRANCH),
        (MaskOrNone, FindingKind.TENSOR_BRANCH),
        (MaskWrittenAsNone, FindingKind.TENSOR_BRANCH),
        (RepeatedList, FindingKind.FACTORY),
    ],
)
def test_a_change_with_which_the_model_does_not_run_is_not_offered(model: type[Layer], kind: FindingKind) -> None:
    finding = found(model(), kind)
    assert finding.edit is None and "write `" not in finding.fix


def test_a_number_that_is_the_same_at_every_call_is_not_made_random() -> None:
    report = check_traceable(SeededInForward().eval(), ROWS)
    drawn = [item for item in report.findings if item.kind is FindingKind.PYTHON_RANDOM]
    assert drawn[-1].expression == "numbers.random()" and not any(item.edit for item in drawn), str(report)
    assert "draw that once, in __init__" in drawn[-1].fix


def test_a_change_with_which_the_model_returns_something_else_is_not_offered() -> None:
    class Index(Layer):
        def forward(self, x: Tensor) -> Any:
            return self.first(x), float(x.sum())

    assert found(Index(), FindingKind.TENSOR_NUMBER).edit is None


def test_all_modules_that_a_line_runs_in_are_named() -> None:
    class Counted(Layer):
        calls = 0

        def forward(self, x: Tensor) -> Any:
            self.calls += 1
            return self.first(x) if self.calls % 2 else torch.relu(self.first(x))

    model = nn.Sequential(Counted(), Counted())
    finding = found(model, FindingKind.ATTRIBUTE_UPDATE)
    assert "set_non_traceable_module_names(['0', '1'])" in finding.fix
    assert finding.handled.endswith("module '0', '1'")


def test_a_line_of_the_model_itself_is_not_put_in_a_module_that_it_calls() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.heads = nn.ModuleList(nn.Linear(6, 3) for _ in range(3))

        def forward(self, x: Tensor, which: Tensor) -> Any:
            return self.heads[which](self.first(x))

    finding = found(Routed(), FindingKind.TENSOR_NUMBER, ROUTED)
    assert finding.module_path == ""


class DictWritten(Layer):
    def forward(self, batch: dict[str, Tensor]) -> Any:
        batch["h"] = self.first(batch["x"])
        return batch["h"]


class HeadByKey(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.ModuleDict({"0": nn.Linear(6, 3), "1": nn.Linear(6, 3)})

    def forward(self, x: Tensor) -> Any:
        key = str(int(x.sum() > 0))
        return self.table[key](x)


class CountByNumber(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.counts = [0, 0, 0]

    def forward(self, x: Tensor, which: Tensor) -> Any:
        self.counts[which] += 1
        return self.first(x)


class SortedByNorm(Layer):
    def forward(self, x: Tensor) -> Any:
        parts = [self.first(x), torch.relu(x), x * 2]
        parts.sort(key=lambda part: part.norm())
        return parts[0]


class WithGradients(Layer):
    def forward(self, x: Tensor) -> Any:
        with torch.enable_grad():
            y = self.first(x)
        return y


class WithoutAutocast(Layer):
    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", enabled=False):
            y = self.first(x.float())
        return y


class WeightWritten(Layer):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            self.first.weight.div_(self.first.weight.norm())
        return self.first(x)


class Gathered(Layer):
    def forward(self, *parts: Tensor) -> Any:
        return self.first(sum(parts))


class DropoutKeptOn(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.drop.train(True)
        return self

    def forward(self, x: Tensor) -> Any:
        return self.drop(self.first(x))


class Seeded(Layer):
    def forward(self, x: Tensor) -> Any:
        torch.manual_seed(0)
        return self.first(x)


class DrawnBranch(Layer):
    def forward(self, x: Tensor) -> Any:
        return self.first(x) if random.random() < 0.5 else x


class GradientTaken(Layer):
    def forward(self, x: Tensor) -> Any:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(self.first(x).sum(), x)[0]


class GradientTakenUnderMode(Layer):
    def forward(self, x: Tensor) -> Any:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.first(x).sum(), x)[0]


class NamedAsGraphs(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("code", torch.ones(6))

    def forward(self, x: Tensor) -> Any:
        return self.first(x) * self.code


class MatchedPair(Layer):
    def forward(self, x: Tensor) -> Any:
        match (x.ndim, x.shape[0] % 2):
            case (2, 0):
                return self.first(x)
        return x


class ModeSet(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Any:
        self.norm.train()
        return self.norm(self.first(x))


class FunctionInDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = {"act": torch.relu, "first": nn.Linear(6, 6)}

    def forward(self, x: Tensor) -> Any:
        return self.parts["act"](self.parts["first"](x))


@pytest.mark.parametrize(
    ("model", "kind", "words", "inputs"),
    [
        (
            DictWritten,
            FindingKind.ITEM_ASSIGNMENT,
            '`batch = {**batch, "h": self.first(batch["x"])}`',
            ({"x": ROWS[0]},),
        ),
        (HeadByKey, FindingKind.TENSOR_NUMBER, "stay in torch", ROWS),
        (HeadByKey, FindingKind.TENSOR_BRANCH, "a number instead of a key", ROWS),
        (CountByNumber, FindingKind.TENSOR_NUMBER, "let forward return `which`", ROUTED),
        (SortedByNorm, FindingKind.TENSOR_BRANCH, "torch.stack([part.norm() for part in parts]).argsort()", ROWS),
        (WithGradients, FindingKind.GRAD_MODE, "where the model is called", ROWS),
        (WithoutAutocast, FindingKind.AUTOCAST, "outside of autocast", ROWS),
        (WeightWritten, FindingKind.GRAD_MODE, "instead of writing it", ROWS),
        (Gathered, FindingKind.UNPACKING, "instead of `*parts`", (*ROWS, *ROWS)),
        (DropoutKeptOn, FindingKind.ALWAYS_DROPOUT, "leave the mode of `self.drop`", ROWS),
        (Seeded, FindingKind.TORCH_RANDOM, "to the caller", ROWS),
        (GradientTaken, FindingKind.ERROR, "under `with torch.enable_grad():`", ROWS),
        (GradientTakenUnderMode, FindingKind.GRAD_MODE, "nothing to do: what takes gradients", ROWS),
        (NamedAsGraphs, FindingKind.ERROR, "Rename it", ROWS),
        (MatchedPair, FindingKind.SIZE_BRANCH, "decide `case (2, 0)` in __init__", ROWS),
        (ModeSet, FindingKind.ATTRIBUTE_UPDATE, "leave self.norm.training to train() and eval()", ROWS),
        (DrawnBranch, FindingKind.PYTHON_RANDOM, "torch.where instead of a branch", ROWS),
        (ComparedLater, FindingKind.TENSOR_NUMBER, "`torch.where` instead of branches", ROWS),
        (FunctionInDict, FindingKind.MODULE_IN_CONTAINER, "apart", ROWS),
    ],
)
def test_what_takes_more_than_a_change_of_one_statement_is_said_in_words(
    model: type[nn.Module], kind: FindingKind, words: str, inputs: Any
) -> None:
    finding = found(model(), kind, inputs)
    assert words in finding.fix and finding.edit is None, finding.fix


def test_the_check_of_a_distribution_is_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)  # torch.compile turns it off

    class Sampled(Layer):
        def forward(self, x: Tensor) -> Any:
            return torch.distributions.Normal(self.first(x), 1.0).rsample()

    finding = found(Sampled(), FindingKind.TENSOR_BRANCH)
    assert finding.edit is not None and "Normal(self.first(x), 1.0, validate_args=False).rsample()" in finding.edit.text


def test_a_container_of_modules_is_not_offered_under_a_name_that_the_file_does_not_import(tmp_path: Path) -> None:
    path = tmp_path / "without_nn.py"
    path.write_text(
        "import torch\n"
        "class Listed(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layers = [torch.nn.Linear(6, 6)]\n"
        "    def forward(self, x):\n"
        "        return self.layers[0](x)\n"
    )
    finding = found(runpy.run_path(str(path))["Listed"](), FindingKind.MODULE_IN_CONTAINER)
    assert finding.edit is None and "nn.ModuleList" in finding.fix


def test_of_several_statements_on_a_line_the_one_is_named_and_changed_that_did_it(tmp_path: Path) -> None:
    path = tmp_path / "several.py"
    path.write_text(
        "import torch\n"
        "class Several(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.first, self.calls = torch.nn.Linear(6, 6), 0\n"
        "        self.register_buffer('mean', torch.zeros(6))\n"
        "    def count(self): self.calls += 1\n"
        "    def forward(self, x):\n"
        "        y = self.first(x); self.count(); z = y * 2\n"
        "        y = y + 1; self.mean += y.mean(0); z = z + self.mean\n"
        "        z = z * 2; assert y.sum() > -1e9, 'small'; x += 1\n"
        "        return y + z + x\n"
    )
    torch.manual_seed(0)
    report = check_traceable(runpy.run_path(str(path))["Several"]().eval(), (torch.randn(4, 6),))
    named = {(item.kind, item.line): item for item in report.findings}
    assert named[FindingKind.ATTRIBUTE_UPDATE, 7].expression == "self.calls += 1", str(report)
    assert named[FindingKind.BUFFER_UPDATE, 10].expression == "self.mean += y.mean(0)", str(report)
    edits = [named[kind, 11].edit for kind in (FindingKind.TENSOR_BRANCH, FindingKind.INPUT_UPDATE)]
    assert [edit.text.strip() for edit in edits if edit is not None] == [
        "z = z * 2; torch._assert(y.sum() > -1e9, 'small'); x += 1",
        "z = z * 2; assert y.sum() > -1e9, 'small'; x = x + 1",
    ]


class Counts(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.step = 0

    def forward(self, x: Tensor) -> Any:
        if self.training:
            self.step += 1
        return self.first(x) * min(1.0, self.step / 100)


def test_what_prepare_qat_fx_refuses_is_not_safe() -> None:
    report = check_traceable(Counts().train(), ROWS)
    assert not report.ok and "prepare_qat_fx refuses it" in str(report)


class Clipped(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        return y / max(y.abs().max().item(), 1e-5)


def test_numbers_have_no_gradients_in_fixes_either() -> None:
    assert ".detach()" in found(Clipped(), FindingKind.TENSOR_NUMBER).fix


def test_the_question_is_the_part_that_is_a_tensors() -> None:
    import other_decisions

    case = other_decisions.MaskOrNothing
    finding = found(case.before(), FindingKind.TENSOR_BRANCH, case.inputs())
    assert finding.expression == "mask.all()"
