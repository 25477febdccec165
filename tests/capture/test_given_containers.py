"""Caches and batches that are inputs: what forward changes in them is changed in the caller's, as in eager."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attends import Attends, ones
from torch import Tensor

import fxquant
from fxquant import pipeline


def _joined(cache: Any, key: Tensor) -> Tensor:
    cache["key"] = torch.cat([cache["key"], key], 1)
    joined: Tensor = cache["key"]
    return joined


def _added(cache: Any, key: Tensor) -> Tensor:
    cache.append(key)
    return torch.cat(cache, 1)


def _nested(cache: Any, key: Tensor) -> Tensor:
    cache["layers"][1]["key"] = key + cache["layers"][1]["key"]
    cache["last"] = key
    joined: Tensor = cache["layers"][1]["key"]
    return joined


def _moved(cache: Any, key: Tensor) -> Tensor:
    before: Tensor = cache.pop("key")
    cache["first"] = cache["key"] = before * 0.5 + key
    return before


def _replaced(cache: Any, key: Tensor) -> Tensor:
    cache[1] = cache[0]["key"]
    cache[0] = {"key": key}
    joined: Tensor = cache[1]
    return joined


WAYS: list[tuple[Callable[[Any, Tensor], Tensor], Callable[[], Any]]] = [
    (_joined, lambda: {"key": ones()}),
    (_added, lambda: [ones()]),
    (_nested, lambda: {"layers": [{"key": ones()}, {"key": ones() * 2}], "last": ones()}),
    (_moved, lambda: {"first": ones(), "key": ones()}),
    (_replaced, lambda: [{"key": ones()}, ones()]),
]


def _close(first: Any, second: Any, part: float) -> bool:
    if isinstance(first, dict):
        return list(first) == list(second) and all(_close(first[key], second[key], part) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(_close(a, b, part) for a, b in zip(first, second, strict=True))
    return first.shape == second.shape and bool((first - second).abs().max() <= part * first.abs().max())


@pytest.mark.parametrize(("way", "make"), WAYS, ids=lambda item: item.__name__)
def test_steps_with_one_cache(way: Callable[[Any, Tensor], Tensor], make: Callable[[], Any]) -> None:
    model, x, example = Attends(way).eval(), torch.randn(2, 1, 4), make()
    captured = pipeline.capture(model, (x, example))
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (x, example))
    used = make()
    for _ in range(2):
        observed(x, used)
    quantized, file = fxquant.convert_fx(observed), io.BytesIO()
    torch.save(quantized, file)
    file.seek(0)
    assert _close(example, make(), 0)
    loaded = torch.load(file, weights_only=False)
    for call, part in ((captured, 1e-6), (quantized, 0.05), (loaded, 0.05)):
        mine, its = make(), make()
        for _ in range(2):
            assert _close(model(x, mine), call(x, its), part)
            assert _close(mine, its, part)


class Cache:
    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.seen = 0

    def update(self, key: Tensor) -> Tensor:
        self.keys.append(key)
        self.seen += key.shape[1]
        return torch.cat(self.keys, 1)


def test_an_object_of_the_example_stays_as_it_was() -> None:
    model, cache = Attends(lambda cache, key: cache.update(key)).eval(), Cache()
    before = copy.deepcopy(vars(cache))
    fxquant.check_traceable(model, (ones(), cache))
    fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (ones(), cache))
    assert vars(cache) == before
