"""Of many layers that look alike, one holds or is given something else, which its code asks for in a way of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import register_pytree_node, tree_leaves

from fxquant import pipeline
from fxquant.errors import FxquantError

LAYERS, ODD = 14, 9
SMALL, LARGE = 0.1 * torch.randn(2, 4), 50 * torch.randn(3, 4)
TABLE = {"limit": 1e5}
BOUND = TABLE.get
text_of = str


class Layer(nn.Module):
    """Clips at 2 where it is odd."""

    def __init__(self, odd: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        nn.init.orthogonal_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.hold(odd)

    def hold(self, odd: bool) -> None:
        pass

    def limited(self, x: Tensor, limit: float = 1e5) -> Tensor:
        y: Tensor = self.linear(x)
        return F.hardtanh(y, -limit, limit)

    def narrow(self, x: Tensor, odd: bool) -> Tensor:
        return self.limited(x, 2.0) if odd else self.limited(x)


class Word:
    shown = "even"

    def __init__(self, other: Word | None = None, raw: int = 0) -> None:
        self.size, self.raw = (0 if other is None else other.raw), raw

    def __str__(self) -> str:
        return self.shown

    @classmethod
    def like(cls, other: Word) -> Word:
        return cls(other)

    def again(self) -> Word:
        return self.__class__(self)


class Kind:
    def __init__(self, kind: int) -> None:
        self.kind = kind

    def __str__(self) -> str:
        return f"kind {self.kind}"


register_pytree_node(Kind, lambda item: ([item.kind], None), lambda items, _: Kind(*items), serialized_type_name="Kind")


class Keys:
    def __init__(self, wide: bool) -> None:
        self.wide = wide

    def keys(self) -> Iterator[str]:
        return iter(("limit",) if self.wide else ())

    def __getitem__(self, key: str) -> float:
        return 2.0


class ByConstructor(Layer):
    def hold(self, odd: bool) -> None:
        self.word = Word(raw=int(odd))

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(x, self.word.like(self.word).size > 0)


class ByClass(ByConstructor):
    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(x, self.word.again().size > 0)


class ByPercent(Layer):
    def hold(self, odd: bool) -> None:
        self.thing = Kind(int(odd))

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(x, "%s" % self.thing == "kind 1")  # noqa: UP031


class ByAlias(ByPercent):
    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(x, text_of(self.thing) == "kind 1")


class ByLeaves(ByPercent):
    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(x, tree_leaves(self.thing)[0] == 1)


class BySpaces(Layer):
    def hold(self, odd: bool) -> None:
        self.one, self.other = SimpleNamespace(kind=odd), SimpleNamespace(kind=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(x, self.one == self.other)


class ByKeys(Layer):
    def hold(self, odd: bool) -> None:
        self.given = Keys(odd)

    def forward(self, x: Tensor) -> Tensor:
        return self.limited(x, **self.given)


class ByOrder(Layer):
    def hold(self, odd: bool) -> None:
        self.numbers = {8, 0} if odd else {0, 8}

    def forward(self, x: Tensor) -> Tensor:
        last = list(self.numbers)[-1]
        return self.narrow(x, last == 0)


class BySameList(Layer):
    def hold(self, odd: bool) -> None:
        self.one = [1]
        self.other = self.one if odd else [1]

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(x, self.one is self.other)


class ByZero(Layer):
    def hold(self, odd: bool) -> None:
        self.numbers = {(-0.0 if odd else 0.0): 1}

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(x, "-" in text_of(list(self.numbers)))


class ByElement(Layer):
    def hold(self, odd: bool) -> None:
        self.register_buffer("index", torch.tensor([int(odd), 3]))
        self.limits = (1e5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.limited(x, self.limits[self.index[0]])  # type: ignore[index]


@pytest.mark.parametrize(
    "kind",
    [ByConstructor, ByClass, ByPercent, ByAlias, ByLeaves, BySpaces, ByKeys, ByOrder, BySameList, ByZero, ByElement],
)
def test_what_one_layer_holds(kind: type[Layer]) -> None:
    model = nn.Sequential(*(kind(index == ODD) for index in range(LAYERS))).eval()
    captured = pipeline.capture(model, (SMALL,))
    for x in (SMALL, LARGE):
        assert torch.allclose(model(x), captured(x), atol=1e-4)


class Plain(Layer):
    def forward(self, x: Tensor, *_: Any) -> Any:
        return self.narrow(x, False)


class OfScale(Plain):
    def hold(self, odd: bool) -> None:
        self.scale = 1 / np.sqrt(4.0)
        self.half = np.float32(0.5)


class OfIndex(Plain):
    def hold(self, odd: bool) -> None:
        self.index = (..., 0)


class OfArray(Plain):
    def hold(self, odd: bool) -> None:
        self.array = np.zeros(4)


class Unsure:
    def __bool__(self) -> bool:
        raise ValueError("has no truth value")


class OfUnsure(Plain):
    def hold(self, odd: bool) -> None:
        self.unsure = Unsure()


class OfTensor(Plain):
    def hold(self, odd: bool) -> None:
        self.space = SimpleNamespace(tensor=torch.ones(4))


class OfItself(Plain):
    def hold(self, odd: bool) -> None:
        self.items: list[Any] = []
        self.items.append(self.items)


@pytest.mark.parametrize("kind", [OfScale, OfIndex, OfArray, OfUnsure, OfTensor, OfItself])
def test_layers_that_hold_anything_are_captured(kind: type[Layer]) -> None:
    model = nn.Sequential(*(kind(False) for _ in range(LAYERS))).eval()
    captured = pipeline.capture(model, (SMALL,), strict=True)
    assert torch.allclose(model(SMALL), captured(SMALL), atol=1e-6)


class ByWord(Layer):
    def hold(self, odd: bool) -> None:
        self.word = Word()

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(x, f"{self.word}" == "odd")


class ByBound(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.limited(x, BOUND("limit"))  # type: ignore[arg-type]


class ByFunction(Layer):
    def helper(self) -> None:
        pass

    helper.limit = 1e5  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        return self.limited(x, self.helper.limit)  # type: ignore[attr-defined]


class ByDefault(Layer):
    def forward(self, x: Tensor, limit: float = 1e5) -> Tensor:
        return self.limited(x, limit)


def _word(limit: float) -> None:
    Word.shown = "odd" if limit == 2.0 else "even"


SWITCHES: dict[type[Layer], Callable[[float], None]] = {
    ByWord: _word,
    ByBound: lambda limit: TABLE.update(limit=limit),
    ByFunction: lambda limit: vars(ByFunction.helper).update(limit=limit),
    ByDefault: lambda limit: setattr(ByDefault.forward, "__defaults__", (limit,)),
}


class Switches(nn.Module):
    """Changes for one layer what all have in common."""

    def __init__(self, kind: type[Layer]) -> None:
        super().__init__()
        self.layers, self.switch = nn.ModuleList(kind(False) for _ in range(LAYERS)), SWITCHES[kind]

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            self.switch(2.0 if index == ODD else 1e5)
            x = layer(x)
        self.switch(1e5)
        return x


class Literal(Layer):
    """Returns a dictionary that it makes anew."""

    def forward(self, x: Tensor) -> Any:
        return self.limited(x), {"limit": 1e5}


class Own(Literal):
    """Returns a dictionary that it holds."""

    def hold(self, odd: bool) -> None:
        self.settings = {"limit": 1e5}

    def forward(self, x: Tensor) -> Any:
        return self.limited(x, self.settings["limit"]), self.settings


class ChangesResult(nn.Module):
    def __init__(self, kind: type[Literal]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(kind(False) for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate((*self.layers, *self.layers)):
            x, settings = layer(x)
            x = x.clamp(max=settings["limit"])
            settings["limit"] = 2.0 if index == ODD else 1e5
        for layer in self.layers:
            layer(x)[1]["limit"] = 1e5
        return x


class Twice(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.limited(x)
        return y, y


class AsksIfSame(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Twice(False) for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            first, second = layer(x)
            x = first if first is second else first.clamp(-2, 2)
        return x


@pytest.mark.parametrize(
    "make",
    [*(lambda kind=kind: Switches(kind) for kind in SWITCHES), lambda: ChangesResult(Literal),
     lambda: ChangesResult(Own), AsksIfSame],
)  # fmt: skip
def test_what_is_changed_around_one_layer(make: Callable[[], nn.Module]) -> None:
    model = make().eval()
    captured = pipeline.capture(model, (SMALL,))
    for x in (SMALL, LARGE):
        assert torch.allclose(model(x), captured(x), atol=1e-4)


class Indexes(Layer):
    def hold(self, odd: bool) -> None:
        self.scales = tuple(1 + 0.1 * index for index in range(32))

    def forward(self, x: Tensor, size: int) -> Tensor:
        return self.limited(x) * self.scales[size]


class Refuses(Layer):
    def forward(self, x: Tensor, bad: Tensor) -> Tensor:
        if bad:
            raise ValueError("bad values")
        return self.limited(x)


class AsksForType(Layer):
    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.limited(x) * (2 if torch.is_floating_point(other) else 1)


class AsksForClass(Layer):
    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.limited(x) * (2 if isinstance(other, torch.FloatTensor) else 1)


class AsksForPromoted(Layer):
    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.limited(x) * (2 if (self.linear.bias * other).dtype is torch.float32 else 1)


class GivesOther(nn.Module):
    """Gives the last layers what it makes of another input."""

    def __init__(self, kind: type[Layer], of: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layers, self.of = nn.ModuleList(kind(False) for _ in range(LAYERS)), of

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        first, last = self.of(x), self.of(y)
        for index, layer in enumerate(self.layers):
            x = layer(x, first if index < ODD else last)
        return x


@pytest.mark.parametrize(
    ("kind", "of", "other"),
    [
        (Refuses, lambda x: (x > 50).any(), torch.full((2, 4), 60.0)),
        (AsksForType, lambda x: x, torch.ones(2, 4, dtype=torch.long)),
        (AsksForClass, lambda x: x, torch.ones(2, 4, dtype=torch.double)),
        (AsksForPromoted, lambda x: x, torch.ones(2, 4, dtype=torch.double)),
    ],
)  # fmt: skip
def test_questions_about_another_input_are_checked(
    kind: type[Layer], of: Callable[[Tensor], Any], other: Tensor
) -> None:
    model = GivesOther(kind, of).eval()
    captured = pipeline.capture(model, (SMALL, SMALL * 2))
    assert torch.allclose(model(SMALL, SMALL), captured(SMALL, SMALL + 0), atol=1e-5)
    with pytest.raises(FxquantError, match="asks for what was"):
        captured(SMALL, other)


def test_what_the_size_of_another_input_chooses_is_chosen_anew() -> None:
    model = GivesOther(Indexes, lambda x: x.shape[1]).eval()
    captured = pipeline.capture(model, (SMALL, SMALL * 2))
    for other in (SMALL, torch.ones(2, 5), torch.ones(2, 7)):
        assert torch.allclose(model(SMALL, other), captured(SMALL, other), atol=1e-5)
