"""Containers and objects that are inputs and that forward changes: a graph changes those of its caller at its end.

Before::

    cache["key"] = torch.cat([cache["key"], k], 1)
    state.hidden = h

After: the code works on a dictionary and an object of proxies, and the graph ends with
``put_item(%cache, "key", %cat)`` and ``put_attribute(%state, "hidden", %h)``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fxquant.capture.structures import has_attributes
from fxquant.ir.write_back import (
    attributes_of,
    put_attribute,
    put_item,
    put_items,
    remove_attribute,
    remove_item,
)

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

Path = tuple[Any, ...]
_DEPTH = 8
_ELEMENTS = (list, set, deque)


@dataclass(frozen=True)
class Given:
    """The entries of a container, or the attributes of an object.

    Attributes:
        held: what forward gets, of proxies.
        read: gives what is in it, a list or a dictionary. put, remove: do that to an entry of a dictionary.
        before: what was in it.
        path: to it, from the input.
    """

    held: Any
    read: Callable[[Any], Any]
    put: Callable[[Any, Any, Any], None]
    remove: Callable[[Any, Any], None]
    before: Any
    path: Path

    def writes(self, known: Callable[[Any], Any]) -> Iterator[tuple[Any, Path]]:
        """Calls that make the caller's like it, each a function and what it is given behind the caller's.

        Args:
            known: gives what stands for something that forward holds.
        """
        before, now = self.before, self.read(self.held)
        if isinstance(now, list):
            if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
                yield put_items, (known(now),)
            return
        kept = [key for key in before if key in now]
        kept = kept if list(now)[: len(kept)] == kept else []  # in another order, all are set anew
        yield from ((self.remove, (key,)) for key in before if key not in kept)
        changed = (key for key in now if key not in kept or before[key] is not now[key])
        yield from ((self.put, (key, known(now[key]))) for key in changed)


class GivenContainers:
    """The containers and objects among the inputs of one trace."""

    def __init__(self) -> None:
        self._noted: dict[int, tuple[list[Given], Callable[[Path], Any]]] = {}

    def note(self, held: Any, follow: Callable[[Path], Any], path: Path = ()) -> None:
        """Remember what is in a container or an object, and in those in it.

        Args:
            held: what forward gets, of proxies.
            follow: records the way to what the caller has at a path: keys, indices, ``("attr", name)``.
            path: of ``held``.
        """
        if id(held) in self._noted or len(path) > _DEPTH:
            return
        parts: dict[Any, Any] = {}
        found: list[Given] = []
        if isinstance(held, dict):
            found.append(Given(held, dict, put_item, remove_item, dict(held), path))
            parts = dict(held)
        elif isinstance(held, _ELEMENTS):
            found.append(Given(held, list, put_item, remove_item, list(held), path))
        if isinstance(held, (list, tuple)):
            parts = dict(enumerate(held))
        if has_attributes(held):
            attributes = attributes_of(held)
            found.append(Given(held, attributes_of, put_attribute, remove_attribute, attributes, path))
            parts |= {("attr", name): item for name, item in attributes.items()}
        if found:
            self._noted[id(held)] = found, follow
        for step, item in parts.items():
            self.note(item, follow, (*path, step))

    def write_back(self, tracer: ValueTracer) -> None:
        """Record what forward changed, behind everything that it did."""
        standing: dict[int, Any] = {}

        def known(item: Any) -> Any:
            if id(item) in self._noted:
                if id(item) not in standing:
                    (given, *_), follow = self._noted[id(item)]
                    standing[id(item)] = follow(given.path)
                return standing[id(item)]
            if type(item) in (list, tuple):
                return type(item)(map(known, item))
            return {key: known(part) for key, part in item.items()} if type(item) is dict else item

        everything = [given for found, _ in self._noted.values() for given in found]
        # The ways to what is written into are found before something else lies there.
        writes = [
            (function, (known(given.held), *arguments))
            for given in everything
            for function, arguments in given.writes(known)
        ]
        for function, arguments in writes:
            tracer.create_proxy("call_function", function, arguments, {})
