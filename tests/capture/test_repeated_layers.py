"""Layers that repeat: their graph and facts are those of a trace of each, and what differs is seen."""

from __future__ import annotations

import contextvars
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import pipeline
from fxquant.capture import repeated_layers
from fxquant.errors import FxquantError
from fxquant.ir.meta import info

LAYERS = 12
NEVER = 10**9
STEPS = [0]
LIMITS = [1e6] * 9 + [9.0] * 3
INDEX: contextvars.ContextVar[int] = contextvars.ContextVar("index", default=0)
LOSSES: list[Tensor] = []


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.norm(F.relu(self.linear(x)))
        return y


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.relu = nn.Linear(8, 8), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.linear(x))
        y += x
        return y


class WritesInput(InPlace):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.relu(x)) + x
        return y


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        a = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        y: Tensor = x + self.out(a.transpose(1, 2).reshape(n, length, width))
        return y


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, y = pair
        return self.linear(x) + y, x


class Tied(nn.Module):
    weight = nn.Parameter(torch.randn(8, 8) / 3)

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.shared = nn.Linear(8, 8), Tied.weight

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x) @ self.shared)


class Unrolled(nn.Module):
    """One cell, called for each step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRUCell(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        h = x[:, 0]
        for _ in range(LAYERS):
            h = self.out(self.cell(x[:, 0], h)) + h
        return h


class Counts(nn.Module):
    """Keeps how often it was called where nothing looks: the last layers do something else."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        STEPS[0] += 1
        y: Tensor = self.linear(x)
        return y.relu() if STEPS[0] % LAYERS > 9 else y


class Numbered(nn.Module):
    def __init__(self, index: int) -> None:
        super().__init__()
        self.linear, self.index = nn.Linear(8, 8), index

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y.relu() if self.index % 3 == 0 else y


class ByIdentity(nn.Module):
    """Looks up itself: nothing that a layer holds tells which one it is."""

    odd: ClassVar[set[int]] = set()

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def __deepcopy__(self, memo: dict[int, Any]) -> ByIdentity:
        made = ByIdentity()
        made.load_state_dict(self.state_dict())
        if id(self) in ByIdentity.odd:
            ByIdentity.odd.add(id(made))
        else:  # a copy that is gone may have had this number
            ByIdentity.odd.discard(id(made))
        memo[id(made)] = made  # so that its number is not used again
        return made

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y * 2 if id(self) in ByIdentity.odd else y


class ByValue(nn.Module):
    """How many rows are left inside depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        kept = y[y[..., 0] > 0]
        z: Tensor = y + kept.sum(0)
        return z


class Keeps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.last: Any = None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        self.last = y
        return y.relu()


class Told(nn.Module):
    """Tells its layers which one they are."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Numbered(1) for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            layer.index = index
            x = layer(x)
        return x


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0) for _ in range(LAYERS)
        )

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        for layer in self.layers:
            x = layer(x, src_mask=mask)
        return x


class OneIsOff(nn.Module):
    """One of its layers runs without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Plain() for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            with torch.set_grad_enabled(index != 10):
                x = layer(x)
        return x


class Limited(nn.Module):
    """A layer whose limit shows on large values only."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def limit(self) -> float:
        return 1e6

    def forward(self, x: Tensor) -> Tensor:
        limit = self.limit()
        return (x + self.linear(x) * 0.1).clamp(-limit, limit)


class ByContext(Limited):
    def limit(self) -> float:
        return LIMITS[INDEX.get()]


class ByClass(Limited):
    number = 0

    def limit(self) -> float:
        return LIMITS[type(self).number]


class ByConstant(Limited):
    bound = 1e6

    def limit(self) -> float:
        return self.bound


class ByShared(Limited):
    def limit(self) -> float:
        return LIMITS[self.shared.number]  # type: ignore[union-attr,index]


class ByPlace(Limited):
    parent: Any = None

    def limit(self) -> float:
        return LIMITS[next(index for index, layer in enumerate(self.parent[0].layers) if layer is self)]


class ByBuffer(Limited):
    def __init__(self, kind: int) -> None:
        super().__init__()
        self.register_buffer("kind", torch.tensor(kind))

    def limit(self) -> float:
        return LIMITS[self.kind]  # type: ignore[call-overload,no-any-return]


class ByTensor(Limited):
    def forward(self, x: Tensor) -> Tensor:
        limit = LIMITS[getattr(x, "depth", 0)]
        return (x + self.linear(x) * 0.1).clamp(-limit, limit)


class Directed(nn.Module):
    """Tells its layers, in many ways, which one they are."""

    def __init__(self, kind: type[Limited]) -> None:
        super().__init__()
        self.layers, self.shared = nn.ModuleList(kind() for _ in range(LAYERS)), nn.Identity()
        for layer in self.layers:
            if kind is ByPlace:
                layer.parent = [self]
            if kind is ByShared:
                layer.shared = self.shared

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            token = INDEX.set(index)
            ByClass.number = index
            ByConstant.bound = LIMITS[index]
            self.shared.number = index  # type: ignore[assignment]
            x.depth = index  # type: ignore[attr-defined]
            x = layer(x)
            INDEX.reset(token)
        ByClass.number, ByConstant.bound = 0, 1e6
        self.shared.number = 0  # type: ignore[assignment]
        return x


class Penalized(Limited):
    """Adds to what it is given."""

    def forward(self, x: Tensor, state: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        y = x + self.linear(x) * 0.1
        state["penalty"] = state["penalty"] + F.relu(y.abs() - 10).sum()
        return y


class Collected(Limited):
    def forward(self, x: Tensor) -> Tensor:
        y = x + self.linear(x) * 0.1
        LOSSES.append(F.relu(y.abs() - 10).sum())
        return y


class WithPenalty(nn.Module):
    def __init__(self, kind: type[Limited]) -> None:
        super().__init__()
        self.layers, self.passes = nn.ModuleList(kind() for _ in range(LAYERS)), kind is Penalized

    def forward(self, x: Tensor) -> Tensor:
        state = {"penalty": x.sum() * 0}
        for layer in self.layers:
            x = layer(x, state) if self.passes else layer(x)
        total = state["penalty"] + sum(LOSSES)
        LOSSES.clear()
        return x + total


class Context:
    def __init__(self, limit: float) -> None:
        self.limit = limit


class InContext(Limited):
    context: Any = None

    def limit(self) -> float:
        limit: float = self.context.limit
        return limit


class OneBlock(nn.Module):
    """Calls one block in a new context each time, at the address of the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.block = InContext()

    def forward(self, x: Tensor) -> Tensor:
        for index in range(LAYERS):
            self.block.context = Context(LIMITS[index])
            x = self.block(x)
            self.block.context = None
        return x


def _stack(layer: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(layer() for _ in range(LAYERS)))


def _hooked() -> nn.Module:
    model = _stack(Plain)()
    model.get_submodule("9").register_forward_hook(lambda module, args, result: result * 2)
    return model


def _numbered() -> nn.Module:
    return nn.Sequential(*(Numbered(index) for index in range(LAYERS)))


def _by_identity() -> nn.Module:
    model = _stack(ByIdentity)()
    ByIdentity.odd = {id(layer) for layer in model[9:]}  # type: ignore[index]
    return model


SEQUENCE = torch.randn(2, 5, 8)


class Causal(nn.Module):
    """Attention as it is written in tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.norm = nn.Linear(8, 24), nn.Linear(8, 8), nn.LayerNorm(8)
        self.register_buffer("mask", torch.tril(torch.ones(16, 16)).view(1, 1, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.size()
        q, k, v = self.qkv(self.norm(x)).split(width, dim=2)
        q, k, v = (part.view(n, length, 2, width // 2).transpose(1, 2) for part in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(k.size(-1))
        scores = scores.masked_fill(self.mask[:, :, :length, :length] == 0, float("-inf"))
        y = F.softmax(scores, dim=-1) @ v
        result: Tensor = x + self.out(y.transpose(1, 2).contiguous().view(n, length, width))
        return result


@dataclass
class Shape:
    heads: int = 2
    width: int = 8

    @property
    def of_head(self) -> int:
        return self.width // self.heads


class ByShape(nn.Module):
    """Attention whose sizes all layers read from one object; each has a number, which nothing reads."""

    def __init__(self, shape: Shape, number: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.shape, self.number, self.dropout = shape, number, nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.size()
        heads = (n, length, self.shape.heads, self.shape.of_head)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.qkv(x).split(width, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, length, width)
        result: Tensor = x + self.dropout(self.out(y))
        return result


def _by_shape() -> nn.Module:
    shape = Shape()
    return nn.Sequential(*(ByShape(shape, index) for index in range(LAYERS)))


@torch.fx.wrap
def _scaled(x: Tensor, by: float) -> Tensor:
    return x * by


class CallsMarked(Limited):
    """Calls a function that plain tracing keeps whole, and would call one that is not there."""

    fast = False

    def forward(self, x: Tensor) -> Tensor:
        y = fused_linear(x) if self.fast else self.linear(x)  # type: ignore[name-defined]  # noqa: F821
        return x + _scaled(y, 0.1)


class Inverts(nn.Module):
    """Does something else where a matrix has no inverse."""

    def __init__(self, size: float = 3.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(size * torch.eye(8))

    def forward(self, x: Tensor) -> Tensor:
        try:
            inverse = torch.linalg.inv(self.weight)
        except RuntimeError:
            inverse = self.weight + 0.1
        return x + x @ inverse


class Collects(Limited):
    """Keeps what it computes in a list and a dictionary that it makes for it."""

    def forward(self, x: Tensor) -> Tensor:
        steps = []
        named = {}
        steps.append(self.linear(x))
        named.update(last=steps[0].tanh())
        steps.extend([x, named["last"]])
        return torch.stack(steps).sum(0)


SEEN: list[int] = []


class CollectsInOne(Limited):
    """Adds to a list that all layers have, for it makes none of its own; the last layers do something else."""

    own = False

    def forward(self, x: Tensor) -> Tensor:
        seen = SEEN if not self.own else []
        seen.append(1)
        y: Tensor = self.linear(x)
        return x + (y if len(seen) < 10 else -y)


class WithoutGradients(Limited):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = x.abs().mean()
        result: Tensor = x + self.linear(x) * scale
        return result


class InHalf(Limited):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.linear(x)
        return x + y.float()


def _inverts(*singular: int) -> nn.Module:
    return nn.Sequential(*(Inverts(0.0 if index in singular else 3.0) for index in range(LAYERS)))


REPEATED: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "plain": (_stack(Plain), SEQUENCE),
    "in place": (_stack(InPlace), SEQUENCE),
    "attention": (_stack(Attends), SEQUENCE),
    "torch's attention": (Masked, SEQUENCE),
    "pairs": (_stack(Pair), (SEQUENCE, SEQUENCE * 2)),
    "tied": (_stack(Tied), SEQUENCE),
    "unrolled": (Unrolled, SEQUENCE),
    "causal attention": (_stack(Causal), SEQUENCE),
    "a configuration": (_by_shape, SEQUENCE),
    "a marked function": (_stack(CallsMarked), SEQUENCE),
    "lists of its own": (_stack(Collects), SEQUENCE),
}
TRACED_EACH: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "writes into its input": (_stack(WritesInput), SEQUENCE),
    "what could fail": (_inverts, SEQUENCE),
    "numbered": (_numbered, SEQUENCE),
    "keeps its result": (_stack(Keeps), SEQUENCE),
    "a block without gradients": (_stack(WithoutGradients), SEQUENCE),
    "a block in bfloat16": (_stack(InHalf), SEQUENCE),
}
NOTICED: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "a hook on one": (_hooked, SEQUENCE),
    "a counter outside": (_stack(Counts), SEQUENCE),
    "identity": (_by_identity, SEQUENCE),
    "shapes by values": (_stack(ByValue), SEQUENCE),
    "told which one": (Told, SEQUENCE),
    "one without gradients": (OneIsOff, SEQUENCE),
    "an integer buffer": (lambda: nn.Sequential(*(ByBuffer(9 * (index > 8)) for index in range(LAYERS))), SEQUENCE),
    "a dictionary that is written": (lambda: WithPenalty(Penalized), SEQUENCE),
    "a list that all have": (_stack(CollectsInOne), SEQUENCE),
    "a list of the file": (lambda: WithPenalty(Collected), SEQUENCE),
    "an object at the same address": (OneBlock, SEQUENCE),
    "one that fails": (lambda: _inverts(10), SEQUENCE),
    "the first that fail": (lambda: _inverts(*range(9)), SEQUENCE),
    **{
        kind.__name__: (functools.partial(Directed, kind), SEQUENCE)
        for kind in (ByContext, ByClass, ByConstant, ByShared, ByPlace, ByTensor)
    },
}


def _described(captured: nn.Module) -> list[tuple[Any, ...]]:
    graph = captured.graph
    return [
        (node.op, node.target, node.args, node.kwargs, node.name, replace(info(node), storage=0))
        for node in graph.nodes
    ]  # type: ignore[union-attr]


def _both(
    make: Callable[[], nn.Module], x: Any, monkeypatch: pytest.MonkeyPatch, training: bool = False
) -> tuple[Any, Any, nn.Module]:
    """Captured with and without looking at what repeats, and the model."""
    torch.manual_seed(0)
    model = make().train(training)
    first = pipeline.capture(model, (x,))
    monkeypatch.setattr(repeated_layers, "_ALIKE", NEVER)
    return first, pipeline.capture(model, (x,)), model


@pytest.mark.parametrize("name", REPEATED)
def test_the_graph_is_that_of_a_trace_of_each(name: str, again: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    make, x = REPEATED[name]
    first, each, model = _both(make, x, monkeypatch)
    assert len(again) >= LAYERS - 8
    assert str(_described(first)) == str(_described(each))
    assert first.state.facts == each.state.facts
    x = [item[:1, :3] * 3 for item in x] if isinstance(x, tuple) else x[:1, :3] * 3
    x = tuple(x) if isinstance(x, list) else x
    expected, found = model(x), first(x)
    pairs = zip(expected, found, strict=True) if isinstance(expected, tuple) else [(expected, found)]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


@pytest.mark.parametrize("name", ["attention", "torch's attention", "a configuration"])
def test_layers_in_training_too(name: str, again: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    make, x = REPEATED[name]
    first, each, _ = _both(make, x, monkeypatch, training=True)
    assert len(again) >= LAYERS - 8
    assert str(_described(first)) == str(_described(each))
    assert first.state.facts == each.state.facts


@pytest.mark.parametrize("name", TRACED_EACH)
def test_layers_that_do_more_are_traced_each(name: str, again: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    make, x = TRACED_EACH[name]
    first, each, model = _both(make, x, monkeypatch)
    assert not again
    assert str(_described(first)) == str(_described(each))
    assert torch.equal(model(x.clone()), first(x.clone()))


@pytest.mark.parametrize("name", NOTICED)
def test_a_layer_that_differs_is_noticed(name: str, again: list[str]) -> None:
    make, x = NOTICED[name]
    torch.manual_seed(0)
    model = make().eval()
    captured = pipeline.capture(model, (x,))
    for other in (x, x[:1] * -2, x * 100):
        STEPS[0] = 0
        SEEN.clear()
        expected = model(other.clone())
        STEPS[0] = 0
        SEEN.clear()
        assert torch.allclose(expected, captured(other), atol=1e-5), again


def test_names_and_lines_are_those_of_each_layer() -> None:
    captured = pipeline.capture(_stack(Plain)().eval(), (SEQUENCE,))
    linears = [node for node in captured.graph.nodes if info(node).op == "linear"]
    assert [node.name for node in linears] == [f"_{index}_linear" for index in range(LAYERS)]
    assert [info(node).origin.module_path for node in linears] == [f"{index}.linear" for index in range(LAYERS)]
    added = [info(node).origin for node in captured.graph.nodes if info(node).op == "add"]
    assert len({(origin.file, origin.line, origin.code) for origin in added}) == 1
    assert len({origin.call for origin in added}) == LAYERS


def test_a_layer_told_apart_by_an_object_is_not_taken_for_another(again: list[str]) -> None:
    class Scale:
        def __init__(self, by: float) -> None:
            self.by = by

    class Scaled(Plain):
        def __init__(self, scale: Scale) -> None:
            super().__init__()
            self.scale = scale

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.scale.by

    one = Scale(1.0)
    model = nn.Sequential(*(Scaled(Scale(2.0) if index == 10 else one) for index in range(LAYERS))).eval()
    captured = pipeline.capture(model, (SEQUENCE,))
    assert again and "10" not in again
    assert torch.equal(model(SEQUENCE), captured(SEQUENCE))


def test_leaves_of_the_user_are_not_taken_for_others() -> None:
    captured = pipeline.capture(_stack(Plain)().eval(), (SEQUENCE,), leaf_names=["9", "10.linear"])
    called = {node.target for node in captured.graph.nodes if node.op == "call_module"}
    assert called == {"9", "10.linear"}


class MaskedPlain(Plain):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        mask = mask[None] if mask.dim() == 2 else mask
        mask = mask.float() if mask.dtype == torch.bool else mask
        return super().forward(x) * mask


class TwoMasks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MaskedPlain() for _ in range(LAYERS))

    def forward(self, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x, first if index < 9 else second)
        return x


@pytest.mark.parametrize("other", [torch.rand(2, 5, 8), torch.rand(5, 8) > 0.5])
def test_other_arguments_are_checked(other: Tensor) -> None:
    mask = torch.rand(5, 8)
    captured = pipeline.capture(TwoMasks().eval(), (SEQUENCE, mask, mask.clone()))
    with pytest.raises(FxquantError):
        captured(SEQUENCE, mask, other)
