"""Objects that are inputs: what forward changes in them is changed in the caller's, as in eager."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from attends import Attends, ones
from torch import Tensor

import fxquant
from fxquant import pipeline
from fxquant.ir.write_back import attributes_of


class Held:
    """An object of a user's."""

    def __init__(self, **held: Any) -> None:
        vars(self).update(held)


@dataclass
class Fields:
    key: Tensor
    last: Tensor | None = None


class Slots:
    __slots__ = ("key", "last")

    def __init__(self, key: Tensor) -> None:
        self.key = key


class Guarded(Held):
    @property
    def key(self) -> Tensor:
        return self.stored  # type: ignore[attr-defined, no-any-return]

    @key.setter
    def key(self, key: Tensor) -> None:
        self.stored = key


class Named(dict[str, Tensor]):
    """A dictionary with an attribute."""

    last: Tensor


def _set(cache: Any, key: Tensor) -> Tensor:
    cache.key = torch.cat([cache.key, key], 1)
    cache.last = key
    joined: Tensor = cache.key
    return joined


def _deleted(cache: Any, key: Tensor) -> Tensor:
    before: Tensor = cache.key
    del cache.key
    cache.key = before + key
    return before


def _inside(cache: Any, key: Tensor) -> Tensor:
    cache.layers[1].key = cache.layers[1].key + key
    cache.inner.key, cache.inner.keys["last"] = cache.inner.key * 0.5, key
    joined: Tensor = cache.layers[1].key
    return joined


def _each(cache: Any, key: Tensor) -> Tensor:
    for layer in cache.layers:
        key = layer.key + key
        layer.key = key
    return key


def _noted(cache: Any, key: Tensor) -> Tensor:
    cache.names.add("key")
    cache.recent.append(key)
    return cache.recent[-1] + cache.key  # type: ignore[no-any-return]


def _exchanged(cache: Any, key: Tensor) -> Tensor:
    cache.first, cache.second = cache.second, cache.first
    cache.first.key = key
    return cache.second.key  # type: ignore[no-any-return]


def _of_dict(cache: Any, key: Tensor) -> Tensor:
    cache["key"] = cache["key"] + key
    cache.last = key
    joined: Tensor = cache["key"]
    return joined


OBJECTS: list[tuple[Callable[[Any, Tensor], Tensor], Callable[[], Any]]] = [
    (_set, lambda: Held(key=ones())),
    (_set, lambda: Held(key=ones(), last=ones())),
    (_set, lambda: Fields(ones())),
    (_set, lambda: Slots(ones())),
    (_set, lambda: Guarded(stored=ones())),
    (_deleted, lambda: Held(key=ones(), last=ones())),
    (_deleted, lambda: Slots(ones())),
    (_inside, lambda: Held(layers=(Held(key=ones()), Held(key=ones())), inner=Held(key=ones(), keys={}))),
    (_each, lambda: Held(layers=[Held(key=ones()), Held(key=ones())])),
    (_each, lambda: Held(layers=(Held(key=ones()), Fields(ones())))),
    (_noted, lambda: Held(names=set(), recent=deque(), key=ones())),
    (_exchanged, lambda: Held(first=Held(key=ones()), second=Held(key=ones() * 2))),
    (_of_dict, lambda: Named(key=ones())),
]


def _held_in(thing: Any) -> Any:
    """What containers and objects hold, as dictionaries and lists of tensors and literals."""
    if isinstance(thing, (Tensor, str, type(None))):
        return thing
    if isinstance(thing, (list, tuple, set, deque)):
        return [_held_in(item) for item in thing]
    entries = dict(thing) if isinstance(thing, dict) else {}
    return {name: _held_in(item) for name, item in (entries | attributes_of(thing)).items()}


def _alike(first: Any, second: Any, part: float) -> bool:
    if isinstance(first, Tensor):
        return first.shape == second.shape and bool((first - second).abs().max() <= part * first.abs().max())
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_alike(first[key], second[key], part) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(_alike(a, b, part) for a, b in zip(first, second, strict=True))
    return bool(first == second)


@pytest.mark.parametrize(("way", "make"), OBJECTS)
def test_objects_that_are_inputs(way: Callable[[Any, Tensor], Tensor], make: Callable[[], Any]) -> None:
    model, x, example = Attends(way).eval(), torch.randn(2, 1, 4), make()
    captured = pipeline.capture(model, (x, example))
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (x, example))
    observed(x, make())
    assert _alike(_held_in(example), _held_in(make()), 0), "the example is changed"
    assert fxquant.check_traceable(model, (x, example)).ok
    for call, part in ((captured, 1e-6), (fxquant.convert_fx(observed), 0.05)):
        mine, its = make(), make()
        inner = id(getattr(its, "inner", None))
        assert _alike(model(x, mine), call(x, its), part)
        assert _alike(_held_in(mine), _held_in(its), part)
        assert id(getattr(its, "inner", None)) == inner


def test_objects_change_places() -> None:
    model, x = Attends(_exchanged).eval(), torch.randn(2, 1, 4)
    given = Held(first=Held(key=ones()), second=Held(key=ones() * 2))
    first, second = given.first, given.second  # type: ignore[attr-defined]
    pipeline.capture(model, (x, given))(x, given)
    assert (given.first, given.second) == (second, first)  # type: ignore[attr-defined]
    assert torch.equal(second.key, model.key(x)) and torch.equal(first.key, ones())
