"""The code of functions: what is inside of it."""

from __future__ import annotations

import dis
import functools
from collections.abc import Callable, Hashable, Iterator
from types import CodeType
from typing import TypeVar

_Found = TypeVar("_Found")
_MOST = 4096
_EXTENDED_ARG = dis.opmap["EXTENDED_ARG"]


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """A piece of code, and that of the functions, classes and comprehensions in it, the outer ones first."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_in(constant)


def arguments_of(code: CodeType, name: str, only: int | None = None) -> Iterator[tuple[int, int]]:
    """(offset, argument) of the instructions of a name, in a tenth of the time that ``dis`` takes to tell all of each.

    Args:
        code: of a function; what is inside of it is not looked at.
        name: of the instructions, which take an argument.
        only: the argument that is looked for, where others are not.
    """
    wanted, raw, higher = dis.opmap[name], code.co_code, 0
    if has_instruction(code, name) if only is None else bytes((wanted, only & 255)) in raw:
        for place, (operation, argument) in enumerate(zip(raw[::2], raw[1::2], strict=True)):
            if operation == wanted and only in (None, higher | argument):
                yield 2 * place, higher | argument
            higher = (higher | argument) << 8 if operation == _EXTENDED_ARG else 0


def has_instruction(code: CodeType, name: str) -> bool:
    """Whether there is an instruction of a name in code."""
    return dis.opmap[name] in code.co_code[::2]


def remembered(function: Callable[..., _Found]) -> Callable[..., _Found]:
    """``functools.lru_cache`` for functions of code: Python takes the same source in two files for equal code.

    Args:
        function: takes code, and what else can be a key; it is called by position.
    """
    known: dict[tuple[Hashable, ...], tuple[CodeType, _Found]] = {}

    @functools.wraps(function)
    def find(code: CodeType, *others: Hashable) -> _Found:
        key = (id(code), *others)
        if key not in known:
            if len(known) >= _MOST:
                known.clear()
            known[key] = code, function(code, *others)  # it is kept: its id stays its own
        return known[key][1]

    return find
