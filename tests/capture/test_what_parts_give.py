"""What parts that run as Python give, hold and write: of another kind for other values, in memory that others have."""

from __future__ import annotations

import copy
import functools
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import pipeline
from fxquant.errors import FxquantError

ONES = torch.ones(4, 8)
LARGE = ONES * 60
STORE: dict[str, float] = {}


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.linear.weight.data.fill_(0.1)
        self.linear.bias.data.zero_()
        self.register_buffer("first", torch.zeros(8))
        self.register_buffer("second", torch.zeros(8))
        self.log: list[int] = []
        self.table: dict[str, float] = {}


class ChosenBuffer(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        memory = self.first if y.mean() > 0 else self.second
        memory.add_(1.0)
        return y + self.first


class PerhapsView(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        z = y[:, :4] if x[0, 0] > 50 else y[:, :4].clone()
        z.mul_(2.0)
        return y, z


class PerhapsItself(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        held = [y] if x[0, 0] > 50 else [y.clone()]
        held[0].add_(1.0)
        return y


class ListInRareBranch(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if x[0, 0] > 50:
            self.log.append(1)
        return y * (1 + len(self.log))


class DictInRareBranch(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if x[0, 0] > 50:
            self.table["scale"] = 3.0
        return y * self.table.get("scale", 1.0)


class GlobalInRareBranch(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if x[0, 0] > 50:
            STORE["scale"] = 3.0
        return y * STORE.get("scale", 1.0)


class BufferRebound(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if x[0, 0] > 50:
            self.first = y.detach().mean(0)
        return y - self.first


@pytest.mark.parametrize(
    "kind",
    [ChosenBuffer, PerhapsView, PerhapsItself, ListInRareBranch, DictInRareBranch, GlobalInRareBranch, BufferRebound],
)
@pytest.mark.parametrize("example", [ONES, LARGE], ids=["small", "large"])
def test_calls_on_either_side_are_those_of_eager(kind: type[Layer], example: Tensor) -> None:
    inputs = (ONES, LARGE, ONES, LARGE)
    STORE.clear()
    model = kind().eval()
    captured = pipeline.capture(model, (example,))
    with torch.no_grad():
        found = [copy.deepcopy(captured(x)) for x in inputs]
        STORE.clear()
        expected = [copy.deepcopy(model(x)) for x in inputs]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


class ListForLongInputs(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if x.shape[0] > 8:
            self.log.append(1)
        return y * (1 + len(self.log))


class DictForLongInputs(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if x.shape[0] > 8:
            self.table["scale"] = 3.0
        return y * self.table.get("scale", 1.0)


@pytest.mark.parametrize("kind", [ListForLongInputs, DictForLongInputs])
def test_containers_that_sizes_change(kind: type[Layer]) -> None:
    model = kind().eval()
    captured = pipeline.capture(model, (ONES,))
    assert torch.equal(captured(ONES), model(ONES))
    with pytest.raises(FxquantError, match="when the model was captured"):
        captured(torch.ones(9, 8))


class TupleOrTensor(Layer):
    def guard(self, y: Tensor) -> Any:
        if y.max() < 50:
            return y
        return "large", y.clamp(max=50)

    def forward(self, x: Tensor) -> Any:
        found = self.guard(self.linear(x) + x)
        if isinstance(found, tuple):
            _, found = found
        return found


class ListOrTensor(Layer):
    def forward(self, x: Tensor) -> Any:
        y, rows = self.linear(x), []
        for row in y:
            if row[0] > 40:
                rows.append(row)
        found = torch.stack(rows) if rows else rows
        return y.new_zeros(0, 8) if isinstance(found, list) else found


class OtherDtype(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if x[0, 0] > 50:
            y = y.double()
        return y * 3 if y.dtype == torch.float64 else y


class OtherAttributes(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        found = [y] if x[0, 0] > 50 else y
        return y * 3 if hasattr(found, "append") else y


@pytest.mark.parametrize("kind", [TupleOrTensor, ListOrTensor, OtherDtype, OtherAttributes])
@pytest.mark.parametrize("example", [ONES, LARGE], ids=["small", "large"])
def test_another_kind_than_the_example_is_refused_where_code_asks_for_it(kind: type[Layer], example: Tensor) -> None:
    model = kind().eval()
    captured = pipeline.capture(model, (example,))
    for x in (ONES, LARGE):
        try:
            found = captured(x)
        except FxquantError as error:
            assert x is not example and "when the model was captured" in str(error)
        else:
            torch.testing.assert_close(found, model(x), rtol=0, atol=0)


class PassedThrough(Layer):
    """Of another kind, and nobody asks."""

    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        extra: Any = 0
        if x[0, 0] > 50:
            extra = y.sum()
        return y + extra


@pytest.mark.parametrize("example", [ONES, LARGE], ids=["small", "large"])
def test_what_nobody_asks_for_may_be_of_another_kind(example: Tensor) -> None:
    model = PassedThrough().eval()
    captured = pipeline.capture(model, (example,))
    assert all(torch.equal(captured(x), model(x)) for x in (ONES, LARGE))


class Behind(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(8, 8), nn.Linear(8, 8), nn.Dropout(0.5)

    def block(self, x: Tensor) -> Tensor:
        return self.drop(self.b(x))  # type: ignore[no-any-return]


class Method(Behind):
    def forward(self, x: Tensor) -> Any:
        x, block = self.a(x), self.block
        if x.sum() < 1e9:
            x = block(x)
        return x


class Partial(Behind):
    def forward(self, x: Tensor) -> Any:
        x, block = self.a(x), functools.partial(self.b)
        if x.sum() < 1e9:
            x = self.drop(block(x))
        return x


class Local(Behind):
    def forward(self, x: Tensor) -> Any:
        def block(y: Tensor) -> Tensor:
            return self.drop(self.b(y))  # type: ignore[no-any-return]

        x = self.a(x)
        if x.sum() < 1e9:
            x = block(x)
        return x


@pytest.mark.parametrize("kind", [Method, Partial, Local])
def test_weights_behind_functions_are_trained_and_loaded(kind: type[Behind]) -> None:
    torch.manual_seed(0)
    model = kind().train()
    prepared = fxquant.prepare_qat_fx(model, fxquant.QConfigMapping(), (ONES,))
    held = {id(item) for item in prepared.parameters()}
    assert len(held) == 4 and {tuple(item.shape) for item in prepared.parameters()} == {(8, 8), (8,)}
    for training in (True, False):
        torch.manual_seed(1)
        expected = model.train(training)(ONES)
        torch.manual_seed(1)
        assert torch.equal(prepared.train(training)(ONES), expected)
    first, second = (pipeline.capture(item.eval(), (ONES,)) for item in (model, kind()))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(ONES), second(ONES))


class SharedBuffer(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if y.abs().mean() > 0:
            self.first.mul_(0.9).add_(y.detach().mean(0) * 0.1)
        return y - self.first


def test_a_buffer_of_a_part_and_the_graph_stays_one_in_another_dtype() -> None:
    model = SharedBuffer().eval()
    prepared = fxquant.prepare_fx(model, fxquant.QConfigMapping(), (ONES,))
    model.double(), prepared.double()
    for _ in range(3):
        torch.testing.assert_close(prepared(ONES.double()), model(ONES.double()))


class Compiled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.compile(nn.Linear(8, 8), backend="eager")

    def forward(self, x: Tensor) -> Any:
        if x.sum() > 0:
            x = self.inner(x)
        return x


def test_a_compiled_child_in_a_part() -> None:
    model = Compiled().eval()
    assert torch.equal(pipeline.capture(model, (ONES,))(ONES), model(ONES))


class AsksForGradients(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.a.requires_grad_(False)

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        return self.b(y) if y.requires_grad else self.b(y) * 1


def test_a_frozen_weight_behind_a_question_for_gradients() -> None:
    assert not pipeline.capture(AsksForGradients().train(), (ONES,)).state.capture_notes


class SizedInForward(nn.Module):
    def forward(self, x: Tensor) -> Any:
        pool, norm = nn.AvgPool1d(x.size(-1)), nn.GroupNorm(2, x.shape[1])
        return pool(norm(x))


def test_modules_made_for_a_size() -> None:
    captured = pipeline.capture(SizedInForward().eval(), (torch.randn(2, 4, 6),))
    x = torch.randn(3, 4, 6)
    torch.testing.assert_close(captured(x), SizedInForward()(x))


class Unique(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Any:
        return torch.unique(self.linear(x).round(), return_inverse=True)[1]


def test_functions_that_torch_makes_are_pickled_by_name() -> None:
    model = fxquant.prepare_fx(Unique().eval(), fxquant.QConfigMapping(), (ONES,))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(ONES), model(ONES))


class OtherContainer(Layer):
    def forward(self, x: Tensor) -> Any:
        found = {}
        if x.sum() < 100:
            found["x"] = x
            return self.linear(x), x
        return [self.linear(x), x]


def test_a_result_of_another_kind_is_refused() -> None:
    captured = pipeline.capture(OtherContainer().eval(), (ONES,))
    assert type(captured(ONES)) is tuple
    with pytest.raises(FxquantError, match="the model's result"):
        captured(LARGE)


class Record:
    def __init__(self) -> None:
        self.scale = 1.0

    def raise_it(self) -> None:
        self.scale = 9.0


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.count = 1.0, 0

    def raise_it(self) -> None:
        self.scale = 9.0

    def forward(self, x: Tensor) -> Any:
        if x.mean() < 0:
            self.count = self.count + 1
        return x * self.scale


class Stateful(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.record, self.inner, self.values = 1.0, Record(), Inner(), [1.0]


def push(values: list[float]) -> None:
    values.append(9.0)


class ByName(Stateful):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if x[0, 0] > 50:
            self.__dict__["scale"] = 9.0
        return y * self.scale


class MethodOfObject(Stateful):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if x[0, 0] > 50:
            self.record.raise_it()
        return y * self.record.scale


class MethodOfModule(Stateful):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if x[0, 0] > 50:
            self.inner.raise_it()
        return self.inner(y)


class Function(Stateful):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if x[0, 0] > 50:
            push(self.values)
        return y * sum(self.values)


class HookAdded(Stateful):
    def forward(self, x: Tensor) -> Any:
        if x[0, 0] > 50:
            self.linear.register_forward_hook(lambda module, given, result: result * 2)
        return self.linear(x)


@pytest.mark.parametrize("kind", [ByName, Function, HookAdded])
def test_changes_that_the_source_of_a_part_does_not_show_are_refused(kind: type[Stateful]) -> None:
    model = kind().eval()
    captured = pipeline.capture(model, (ONES,))
    assert all(torch.equal(captured(x), model(x)) for x in (ONES, ONES * 2))
    for x in (LARGE, ONES):  # and from then on: the graph has it as it was
        with pytest.raises(FxquantError, match="code around it reads that"):
            captured(x)


class SetByName(Stateful):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if x[0, 0] > 50:
            setattr(self, "scale", 9.0)  # noqa: B010
        return y * self.scale


class ReadAround(Stateful):
    def forward(self, x: Tensor) -> Any:
        return self.inner(self.linear(x)) * (1 + self.inner.count)


@pytest.mark.parametrize("kind", [SetByName, ReadAround, MethodOfObject, MethodOfModule])
def test_what_is_read_around_a_part_is_kept_with_it(kind: type[Stateful]) -> None:
    model = kind().eval()
    captured = pipeline.capture(model, (ONES,))
    for x in (ONES, LARGE, -ONES, ONES, -LARGE):
        assert torch.equal(captured(x), model(x))


class Counted(Stateful):
    """Nothing around the part reads it."""

    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        if x[0, 0] > 50:
            self.calls = 1
            y = y * self.calls
        return y


def test_what_nobody_reads_may_change() -> None:
    model = Counted().eval()
    captured = pipeline.capture(model, (ONES,))
    assert all(torch.equal(captured(x), model(x)) for x in (ONES, LARGE, ONES, LARGE))
