"""Attributes that carry something from one call of a model over to the next: counters, averages, the largest so far.

A cache is set once, and then fits; what is set in each call may be set anew, or made of what it was. Told by changing
what it was: a call that sets it to something else then, or computes something else, depends on the call before. So it
is found for the example, too, on which a counter of large values stays at zero.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.capture.against_eager import same_results
from fxquant.capture.call_history import run_eagerly
from fxquant.capture.copy_module import copy_module
from fxquant.capture.fingerprint import fingerprint
from fxquant.capture.keep_state import Change, by_name, spaces_of, version_of
from fxquant.capture.structures import has_parts, leaves

_FAR = 1009  # from any threshold that the example lies at; prime: a counter may start again at a round number


@dataclass(frozen=True)
class Carried:
    """What attributes that a call sets do in the next call.

    Attributes:
        over: their value before a call decides their value after it, or what it computes.
        results: of these, those that decide what it computes.
        anew: it decides neither.
    """

    over: frozenset[Change] = frozenset()
    results: frozenset[Change] = frozenset()
    anew: frozenset[Change] = frozenset()


def carried_over(model: nn.Module, example_inputs: Any, changes: Collection[Change]) -> Carried:
    """What is carried over by attributes, and by what they hold.

    Args:
        model: the user's; copies of it are called.
        example_inputs: of the capture.
        changes: attributes of the user's that a call changes.
    """
    if not changes:
        return Carried()
    try:
        used = copy_module(model)
        run_eagerly(used, example_inputs)
        again = _set_in_a_call(used, example_inputs, changes)
        expected = _after_call(used, example_inputs, again, _same) if again else ({}, None)
    except Exception:  # it refuses to be called again
        return Carried()
    over, results = set[Change](), set[Change]()
    for move in (more, less) if again else ():
        values, computed = _moved_by(used, example_inputs, again, move, expected)
        over |= values | computed
        results |= computed
    return Carried(frozenset(over), frozenset(results), frozenset(again) - over)


def _set_in_a_call(used: nn.Module, example_inputs: Any, changes: Collection[Change]) -> list[Change]:
    """Those that a call sets, or in which it sets or changes something that they hold, once the model was called."""
    spaces = spaces_of(used, changes)
    before = {change: insides(space.get(change.name)) for change, space in spaces.items()}
    with _noting_what_is_set(used) as names_set:
        run_eagerly(used, example_inputs)
    return [
        change
        for change, space in spaces.items()
        if (change.module_path, change.name) in names_set or are_others(before[change], space.get(change.name))
    ]


def insides(value: Any) -> list[tuple[Any, int]]:
    """What a value holds, with the versions of tensors."""
    return [(leaf, version_of(leaf) if isinstance(leaf, Tensor) else 0) for leaf in leaves(value)]


def are_others(before: list[tuple[Any, int]], value: Any) -> bool:
    """Whether a value holds other things than before, or something wrote into tensors that it holds."""
    now = insides(value)
    return len(now) != len(before) or any(
        a is not b or one != other for (a, one), (b, other) in zip(before, now, strict=True)
    )


def _moved_by(
    used: nn.Module,
    example_inputs: Any,
    changes: list[Change],
    move: Callable[[Any], Any],
    expected: tuple[dict[Change, Any], Any],
) -> tuple[set[Change], set[Change]]:
    """Attributes that are something else after a call when they were moved before it; and those that move the result.

    All of them are moved at once; where that makes another result, all of one name.
    """
    try:
        values, result = _after_call(used, example_inputs, changes, move)
        same = same_results(expected[1], result)
    except Exception:  # it computes with them
        values, same = {}, False
    if same:
        return {change for change, value in values.items() if value != expected[0][change]}, set()
    if len({change.name for change in changes}) == 1:
        return set(), set(changes)
    moved, moving = set[Change](), set[Change]()
    for alike in by_name(changes):
        some, others = _moved_by(used, example_inputs, alike, move, expected)
        moved |= some
        moving |= others
    return moved, moving


def _after_call(
    used: nn.Module, example_inputs: Any, changes: Collection[Change], move: Callable[[Any], Any]
) -> tuple[dict[Change, Any], Any]:
    """What attributes are after a call in which they were moved before, and what the call gives."""
    copied = copy_module(used)
    spaces = spaces_of(copied, changes)
    for change, space in spaces.items():
        if change.name in space:
            space[change.name] = move(space[change.name])
    result = run_eagerly(copied, example_inputs)
    return {change: fingerprint(space.get(change.name), identity=False) for change, space in spaces.items()}, result


@contextmanager
def _noting_what_is_set(model: nn.Module) -> Iterator[set[tuple[str, str]]]:
    """(path, name) of the attributes of a model's modules that are set inside."""
    paths = {id(module): path for path, module in model.named_modules()}
    found, before = set[tuple[str, str]](), nn.Module.__setattr__

    def note(module: nn.Module, name: str, value: Any) -> None:
        if vars(module).get(name, found) is not value or isinstance(value, (int, float)):
            found.add((paths.get(id(module), "?"), name))
        before(module, name, value)

    setattr(nn.Module, "__setattr__", note)  # noqa: B010
    try:
        yield found
    finally:
        setattr(nn.Module, "__setattr__", before)  # noqa: B010


def _same(value: Any) -> Any:
    return value


def more(value: Any) -> Any:
    """A value far above another one."""
    return _moved(value, _FAR)


def less(value: Any) -> Any:
    """A value far below another one."""
    return _moved(value, -_FAR)


def _moved(value: Any, by: int) -> Any:
    """A value far from another one; the same where there is no telling what else it could be."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + by
    if isinstance(value, Tensor):
        return _moved_tensor(value, by)
    if isinstance(value, torch.Size):
        return torch.Size([size + abs(by) for size in value])
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_moved(item, by) for item in value))
    if type(value) in (tuple, list):
        return type(value)(_moved(item, by) for item in value)
    if type(value) is deque:
        return deque((_moved(item, by) for item in value), value.maxlen)
    if isinstance(value, dict):
        made = copy.copy(value)
        made.update({key: _moved(item, by) for key, item in value.items()})
        return made
    if has_parts(value) and not isinstance(value, nn.Module):
        for name, item in list(vars(value).items()):  # of a copy
            vars(value)[name] = _moved(item, by)
    return value


def _moved_tensor(value: Tensor, by: int) -> Tensor:
    if value.layout is not torch.strided or value.is_quantized or value.is_complex():
        return value
    if value.dtype == torch.bool:
        return value.logical_not()
    is_narrow = value.dtype in (torch.uint8, torch.int8)
    return value.bitwise_xor(1) if is_narrow else value.detach() + by
