"""What a finding says: the part of the line that did it, the thing that changed, the hook by its name."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.check import Finding, FindingKind, Severity, check_traceable

IMAGE = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
ROWS = torch.linspace(-1, 1, 2 * 5 * 8).reshape(2, 5, 8)


def _found(model: nn.Module, inputs: Any, kind: FindingKind) -> list[Finding]:
    report = check_traceable(model, (inputs,))
    return [item for item in report.findings if item.kind is kind]


class Layer(nn.Module):
    """The layer around what is found."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(5)


class WholeNumber(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)[:, : int(x.shape[1] / 2)]


class Rounded(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)[:, : round(x.shape[1] / 2)]


@pytest.mark.parametrize(
    ("model", "expression"), [(WholeNumber(), "int(x.shape[1] / 2)"), (Rounded(), "round(x.shape[1] / 2)")]
)
def test_a_size_that_plain_tracing_stops_at_has_no_error_for_a_value(model: nn.Module, expression: str) -> None:
    (found,) = _found(model.eval(), ROWS, FindingKind.SIZE)
    assert found.message == f"`{expression}` makes a Python number of a size, which plain tracing cannot"


class PadsOdd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv(x)
        if h.shape[-1] % 2:  # an odd one
            h = F.pad(h, (0, 1))
        return h


def test_a_branch_is_shown_without_what_is_in_it() -> None:
    (found,) = _found(PadsOdd().eval(), IMAGE, FindingKind.SIZE_BRANCH)
    assert found.message.startswith("`h.shape[-1] % 2` is False") and found.expression == "h.shape[-1] % 2"


class RefusesOthers(Layer):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] and x.shape[1] % 3:  # no multiple of three
            return self.fc(x)
        return x


def test_a_branch_that_is_shown_without_its_body_is_still_compared() -> None:
    (found,) = _found(RefusesOthers().eval(), ROWS, FindingKind.SIZE_BRANCH)
    assert found.severity is Severity.WARNING and "the graph does not take" in found.message


class Divides(Layer):
    def forward(self, x: Tensor) -> Tensor:
        groups, _ = divmod(x.shape[2], 4)
        return self.fc(x).reshape(x.shape[0], -1, groups, 4).sum(2)


def test_a_line_that_also_unpacks_may_stop_plain_tracing() -> None:
    (found,) = _found(Divides().eval(), ROWS, FindingKind.PLAIN_TRACING)
    assert "divmod" in found.message and found.handled


class ChangesAnother(Layer):
    def forward(self, x: Tensor) -> Tensor:
        self.norm.eval()
        self.fc.calls = 1  # type: ignore[assignment]
        return self.norm(self.fc(x))


def test_an_attribute_of_another_module_is_named_with_it() -> None:
    found = _found(ChangesAnother(), ROWS, FindingKind.ATTRIBUTE_UPDATE)
    shown = {item.code.partition("  #")[0]: item.message for item in found}
    assert "changes self.norm.training;" in shown["self.norm.eval()"]
    assert "changes self.fc.calls;" in shown["self.fc.calls = 1"]


def double(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """A hook."""
    return output * 2


def keep(module: nn.Module, inputs: Any, output: Any) -> None:
    """A hook on gradients."""


class Applied(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class Doubles:
    """A hook that is an object."""

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output * 2


@pytest.mark.parametrize(
    ("hook", "name"), [(double, "double"), (functools.partial(double), "double"), (Doubles(), "Doubles")]
)
def test_a_hook_of_a_layer_is_named(hook: Any, name: str) -> None:
    model = Applied().eval()
    model.fc.register_forward_hook(hook)
    (found,) = _found(model, ROWS, FindingKind.MODULE_HOOK)
    assert found.message == f"the hook {name} on fc is lost when quantization replaces its module"


@pytest.mark.parametrize("training", [False, True])
def test_a_backward_hook_of_the_model_is_one_of_the_model(training: bool) -> None:
    model = Applied().train(training)
    model.register_full_backward_hook(keep)
    (found,) = _found(model, ROWS, FindingKind.ROOT_HOOK)
    assert "the hook keep on the model itself" in found.message and found.code.startswith("def keep(")
    assert not _found(model, ROWS, FindingKind.MODULE_HOOK)


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.InstanceNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.attention(x, x, x, need_weights=False)
        return self.norm(y)


def test_facts_inside_of_torch_are_left_out_where_they_do_not_matter() -> None:
    report = check_traceable(Attends().eval(), (ROWS,))
    assert {item.kind for item in report.findings} == {FindingKind.COMPOSITE}, str(report)


class SortsByValue(Layer):
    def forward(self, x: Tensor) -> Tensor:
        parts = [self.fc(x), x, x * 2]
        parts.sort(key=lambda part: float(part.norm()))
        return parts[0]


def test_results_of_a_float_region_are_no_lengths() -> None:
    assert not _found(SortsByValue().eval(), ROWS, FindingKind.LENGTH)


class TakesTwo(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = x.sum().item(), y.mean().item()
        return x * a + y * b


class DecidesTwice(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x if x.sum() > 0 else -x) + (y if y.mean() > 0 else -y)


class DecidesByBoth(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if x.sum() > 0 and y.sum() > 0:
            return x + y
        return x - y


@pytest.mark.parametrize(
    ("kind", "expressions"),
    [
        (TakesTwo, ["x.sum().item()", "y.mean().item()"]),
        (DecidesTwice, ["x.sum() > 0", "y.mean() > 0"]),
        (DecidesByBoth, ["x.sum() > 0"]),  # one change mends both
    ],
)
def test_every_expression_of_a_line_is_told(kind: type[nn.Module], expressions: list[str]) -> None:
    report = check_traceable(kind().eval(), (torch.rand(4, 3), torch.rand(4, 3)))
    errors = [item for item in report.findings if item.severity is Severity.ERROR]
    assert [item.expression for item in errors] == expressions
    assert len({item.line for item in errors}) == 1 and len({item.fix for item in errors}) == len(errors)


class CountsOnOneLine(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.step = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training: self.step += 1  # noqa: E701  # fmt: skip
        return self.fc(x)  # type: ignore[no-any-return]


def test_what_changes_an_attribute_behind_a_question_on_its_line() -> None:
    (found,) = _found(CountsOnOneLine().train(), ROWS, FindingKind.ATTRIBUTE_UPDATE)
    assert found.message.startswith("`self.step += 1` changes self.step;")


class SetsThroughProperty(Layer):
    def __init__(self) -> None:
        super().__init__()
        self._size = 0

    @property
    def size(self) -> int:
        return self._size

    @size.setter
    def size(self, value: int) -> None:
        self._size = value

    def forward(self, x: Tensor) -> Tensor:
        self.size = x.shape[0]
        return self.fc(x)  # type: ignore[no-any-return]


def test_a_property_is_not_said_to_be_as_it_was() -> None:
    (found,) = _found(SetsThroughProperty().eval(), ROWS, FindingKind.ATTRIBUTE_UPDATE)
    assert found.message.startswith("`self._size = value` changes self._size;")


class ClampsItsGain(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((8,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        self.gain.data.clamp_(0, 1)
        return self.fc(x) * self.gain  # type: ignore[no-any-return]


def test_writing_into_a_parameter_is_seen_where_it_changes_nothing() -> None:
    (found,) = _found(ClampsItsGain().eval(), ROWS, FindingKind.BUFFER_UPDATE)
    assert found.message.startswith("`self.gain.data.clamp_(0, 1)` writes into a buffer or parameter")
    assert "return the new value of self.gain and" in found.fix
    assert found.handled == "the graph updates it too: equal to eager call after call"


class CatchesOneOfThree(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        try:
            scale = torch.linalg.cholesky(y[0, :, :5] * 0 - 100 * torch.eye(5))
        except RuntimeError:
            scale = torch.eye(5)
        return scale @ y


def test_the_operation_that_raises_is_named_and_none_before_it() -> None:
    found = _found(CatchesOneOfThree().eval(), ROWS, FindingKind.CAUGHT_ERROR)
    assert any(
        item.message.startswith("`torch.linalg.cholesky(") and "raises _LinAlgError" in item.message for item in found
    )
    assert not any("raises nothing" in item.message for item in found)


class AsksForKeyword(Layer):
    def forward(self, x: Tensor, **options: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y * options["scale"] if "scale" in options else y


def test_a_keyword_that_is_asked_for_is_to_be_named() -> None:
    (found,) = _found(AsksForKeyword().eval(), ROWS, FindingKind.UNPACKING)
    assert found.fix.startswith(
        'name it in the signature, `scale=None`, and ask `scale is not None` instead of `"scale"'
    )


class PartOfLayers(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        rest = self.layers[1:]
        return rest(self.layers[0](x))  # type: ignore[no-any-return]


def test_a_part_of_a_container_is_named_where_it_is_taken() -> None:
    (found,) = _found(PartOfLayers().eval(), ROWS, FindingKind.MODULE_IN_FORWARD)
    assert (found.expression, found.handled) == ("self.layers[1:]", "the graph has the operations in it")
    assert "`self.part = self.layers[1:]` in __init__" in found.fix


class ListInsidePart(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(8, 8)]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        if y.abs().sum() > 0:
            y = self.layers[0](y)
        return y


def test_modules_in_a_list_are_seen_inside_of_what_runs_as_python() -> None:
    (found,) = _found(ListInsidePart().eval(), ROWS, FindingKind.MODULE_IN_CONTAINER)
    assert (found.code, found.expression) == ("y = self.layers[0](y)", "self.layers[0](y)")
