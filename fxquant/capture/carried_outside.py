"""The same as ``carried_over``, for what is outside of a model: globals, attributes of classes, variables of functions.

A class that counts large values stays at zero on the example. What a call sets there is something else before a call,
and the call computes something else then, or leaves something else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from fxquant.capture.against_eager import same_results
from fxquant.capture.call_history import run_eagerly
from fxquant.capture.carried_over import are_others, insides, less, more
from fxquant.capture.fingerprint import fingerprint
from fxquant.capture.outer_state import Held, is_random

Key = tuple[str, str, str]


def carried_outside(
    used: nn.Module, example_inputs: Any, watched: Collection[Held], restore: Callable[[], None]
) -> tuple[set[Key], set[Key]]:
    """Keys of those of some things that decide what a call computes or sets them to, and of those that do not.

    What a call sets, and what cannot be made something else, such as what a function keeps, counts among the first.

    Args:
        used: a copy of the model, which was called; it is called again.
        example_inputs: of the capture.
        watched: what a call changes.
        restore: puts all of it back as it was before any call.
    """
    watched = [item for item in watched if not is_random(item.get())]
    calls = _Calls(used, example_inputs, restore)
    try:
        again = calls.set_again(watched)
        expected = calls.after_moving(again, _same) if again else ({}, None)
    except Exception:  # it refuses to be called again
        return set(), set()
    carried = {item.key for move in (more, less) for item in calls.carried(again, move, expected)}
    carried |= {item.key for item, names in again.items() if not _can_move(item, names)}
    return carried, {item.key for item in watched} - carried


def carried_unseen(
    used: nn.Module, example_inputs: Any, watched: Collection[Held], restore: Callable[[], None]
) -> set[Key]:
    """Keys of those of some things, which a call leaves as they are, that it sets, and that decide what it gives.

    Args:
        used: a copy of the model; it is called.
        example_inputs: of the capture.
        watched: things outside of it.
        restore: puts all of it back as it was before any call.
    """
    calls = _Calls(used, example_inputs, restore)
    restore()
    result = run_eagerly(used, example_inputs)
    return {item.key for item in calls.unseen(list(watched), result)}


@dataclass(frozen=True)
class _Calls:
    """Calls of a model in which things outside of it are something else than they were.

    Attributes: as the arguments of ``carried_outside``.
    """

    used: nn.Module
    example_inputs: Any
    restore: Callable[[], None]

    def set_again(self, watched: Collection[Held]) -> dict[Held, list[Any]]:
        """What a second call sets: of dictionaries the keys, of anything else ``_WHOLE``."""
        self.restore()
        self._run()
        before = {item: (fingerprint(item.get()), _held_by(item)) for item in watched}
        self._run()
        return {item: names for item in watched if (names := _set_again(*before[item], item))}

    def carried(
        self, items: dict[Held, list[Any]], move: Callable[[Any], Any], expected: tuple[dict[Held, Any], Any]
    ) -> Iterator[Held]:
        """Those that make a difference when they are moved."""

        def matter(some: list[Held]) -> bool:
            try:
                values, result = self.after_moving({item: items[item] for item in some}, move)
            except Exception:  # it computes with them
                return True
            return not same_results(result, expected[1]) or any(values[item] != expected[0][item] for item in some)

        return _single(list(items), matter)

    def after_moving(self, items: dict[Held, list[Any]], move: Callable[[Any], Any]) -> tuple[dict[Held, Any], Any]:
        """What some things are after a call in which they were moved before, and what the call gives."""
        self.restore()
        self._run()
        for item, names in items.items():
            item.put(_with_moved(item.get(), names, move))
        result = self._run()
        return {item: fingerprint(item.get(), identity=False) for item in items}, result

    def unseen(self, items: list[Held], result: Any) -> Iterator[Held]:
        """Those that a call sets where they were moved, and by which it gives something else than a result.

        ``PEAK = max(PEAK, rows)`` sets it where it was less, to what it is; where it was more, it decides the result.
        """

        def matter(some: list[Held]) -> bool:
            (set_above, other_above), (set_below, other_below) = (
                self._sets_when(some, move, result) for move in (more, less)
            )
            return (set_above or set_below) and (other_above or other_below)

        return _single(items, matter)

    def _sets_when(self, items: list[Held], move: Callable[[Any], Any], result: Any) -> tuple[bool, bool]:
        """Whether a call sets one of some things that were moved before, and whether it gives something else."""
        self.restore()
        try:
            for item in items:
                item.put(_with_moved(item.get(), list(_parts_of(item.get())), move))
            before = {item: (fingerprint(item.get()), _held_by(item)) for item in items}
            found = self._run()
        except Exception:  # it computes with them, and takes no other values
            return (True, True) if len(items) > 1 else (False, False)
        return any(_set_again(*before[item], item) for item in items), not same_results(result, found)

    def _run(self) -> Any:
        return run_eagerly(self.used, self.example_inputs)


def _single(items: list[Held], matter: Callable[[list[Held]], bool]) -> Iterator[Held]:
    """Those of some things that matter by themselves: half of them are tried at once, down to one."""
    if not items or not matter(items):
        return
    if len(items) == 1:
        yield from items
        return
    for some in (items[: len(items) // 2], items[len(items) // 2 :]):
        yield from _single(some, matter)


_WHOLE = object()  # stands for a thing as a whole among the keys of what it holds


def _held_by(item: Held) -> dict[Any, list[tuple[Any, int]]]:
    """What is in each of its parts."""
    return {key: insides(held) for key, held in _parts_of(item.get()).items()}


def _parts_of(value: Any) -> dict[Any, Any]:
    """What a dictionary holds; anything else as a whole."""
    return value if type(value) is dict else {_WHOLE: value}


def _set_again(print_before: Any, before: dict[Any, list[tuple[Any, int]]], item: Held) -> list[Any]:
    """Keys of what is something else now; ``_WHOLE`` for what functions and objects keep."""
    value = item.get()
    now = _parts_of(value)
    keys = [key for key, held in now.items() if key not in before or are_others(before[key], held)]
    return keys or ([] if fingerprint(value) == print_before else [_WHOLE])


def _can_move(item: Held, names: list[Any]) -> bool:
    """Whether there is something else that it could be."""
    try:
        before = fingerprint(item.get(), identity=False)
        moved = (_with_moved(copy.deepcopy(item.get()), names, move) for move in (more, less))
        return all(fingerprint(value, identity=False) != before for value in moved)
    except Exception:  # it cannot be copied
        return False


def _with_moved(value: Any, names: list[Any], move: Callable[[Any], Any]) -> Any:
    """A value with what is set of it moved."""
    if type(value) is dict:
        return {key: move(held) if key in names else held for key, held in value.items()}
    return move(value)


def _same(value: Any) -> Any:
    return value
