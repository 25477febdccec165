"""The functions that run some code are found, by the name of it or among all objects."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest

from fxquant.capture.functions_with import functions_with


def plain(x: int) -> int:
    return x + 1


def doubled(function: Callable[[int], int]) -> Callable[[int], int]:
    @functools.wraps(function)
    def wrapper(x: int) -> int:
        return 2 * function(x)

    return wrapper


@doubled
def decorated(x: int) -> int:
    return x + 2


class Outer:
    class Inner:
        def method(self) -> int:
            return 1

    @staticmethod
    def fixed() -> int:
        return 2

    @classmethod
    def of_class(cls) -> int:
        return 3

    @property
    def size(self) -> int:
        return 4

    @functools.cached_property
    def area(self) -> int:
        return 5


def replaced() -> int:
    return 6


before, replaced = replaced, plain  # type: ignore[assignment]


@pytest.mark.parametrize(
    "function",
    [
        plain,
        decorated.__wrapped__,  # type: ignore[attr-defined]
        Outer.Inner.method,
        Outer.fixed,
        vars(Outer)["of_class"].__func__,
        vars(Outer)["size"].fget,
        vars(Outer)["area"].func,
        before,
    ],
)
def test_functions_of_modules_and_classes(function: Any) -> None:
    assert isinstance(function, FunctionType)
    assert functions_with(function.__code__) == [function]


def test_all_functions_that_others_make() -> None:
    made = [doubled(plain) for _ in range(3)]
    wrappers = [item for item in made if isinstance(item, FunctionType)]
    found = functions_with(wrappers[0].__code__)
    assert set(map(id, wrappers)) <= set(map(id, found))
    assert len(found) == 4  # and that of ``decorated``
