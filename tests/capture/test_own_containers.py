"""Where a function changes lists, dictionaries and sets that it made itself, told from its code."""

from __future__ import annotations

import dis
from collections.abc import Callable
from typing import Any

import pytest

from fxquant.capture.plain_code import changes_of_own

LOG: list[Any] = []


def makes_a_list(x: Any) -> Any:
    made = []
    made.append(x)
    return made


def fills_a_dictionary(x: Any) -> Any:
    made = {"x": x}
    made = {"y": x}
    made.update(x=0)
    return made


def in_a_loop(*args: Any) -> Any:
    for x in args:
        made = [x]
        made.extend(args)
    return made


def changes_an_argument(made: list[Any]) -> Any:
    made = [*made]
    made.append(1)
    return made


def changes_what_is_given(*made: Any, **more: Any) -> Any:
    more.update(made=1)
    return more


def may_be_a_global(x: Any) -> Any:
    made = LOG if x else []
    made.append(x)
    return made


def may_be_a_global_too(x: Any) -> Any:
    made = [] if x else LOG
    made.append(x)
    return made


def is_a_global_or_new(x: Any) -> Any:
    made = LOG or []
    made.append(x)
    return made


def becomes_another(x: Any) -> Any:
    made = []
    if x:
        made = LOG
    made.append(x)
    return made


def is_one_of_two(x: Any) -> Any:
    made = [x]
    (LOG or made).append(x)
    return made


def has_two_names(x: Any) -> Any:
    made = other = [x]
    made.append(other)
    return made


def takes_the_first(x: Any) -> Any:
    made, _ = LOG, x
    made.append(x)
    return made


def changes_its_parts(x: Any) -> Any:
    made = [x]
    made[0].append(x)
    return made


OWN = [(makes_a_list, 1), (fills_a_dictionary, 1), (in_a_loop, 1)]
OTHERS = [
    changes_an_argument, changes_what_is_given, may_be_a_global, may_be_a_global_too, is_a_global_or_new,
    becomes_another, is_one_of_two, has_two_names, takes_the_first, changes_its_parts,
]  # fmt: skip


@pytest.mark.parametrize(("function", "count"), [*OWN, *((function, 0) for function in OTHERS)])
def test_what_is_made_in_a_function_is_its_own(function: Callable[..., Any], count: int) -> None:
    found = changes_of_own(function.__code__)
    changing = {
        item.offset
        for item in dis.get_instructions(function)
        if item.opname in ("LOAD_METHOD", "LOAD_ATTR") and item.argval in ("append", "update", "extend")
    }
    assert len(changing) == 1
    assert found <= changing
    assert len(found) == count
