"""Putting back into the caller's containers and objects what forward changed in them: caches and batches as inputs."""

from __future__ import annotations

from collections import deque
from types import MemberDescriptorType
from typing import Any


def put_item(container: dict[Any, Any], key: Any, value: Any) -> None:
    """Set an entry of a dictionary that is an input."""
    container[key] = value


def remove_item(container: dict[Any, Any], key: Any) -> None:
    """Remove an entry of a dictionary that is an input."""
    del container[key]


def put_items(container: list[Any] | set[Any] | deque[Any], items: list[Any] | tuple[Any, ...]) -> None:
    """Let a list, a set or a deque that is an input have other elements."""
    if isinstance(container, list):
        container[:] = items
    else:
        container.clear()
        container.update(items) if isinstance(container, set) else container.extend(items)


def put_attribute(owner: Any, name: str, value: Any) -> None:
    """Set an attribute of an object that is an input, whatever its class does then: forward has done that."""
    if name in _slots(type(owner)):
        object.__setattr__(owner, name, value)
    else:
        vars(owner)[name] = value


def set_attribute(owner: Any, name: str, value: Any) -> None:
    """Set an attribute of an object that is an element of an input, at once and as its class wants it set."""
    setattr(owner, name, value)


def remove_attribute(owner: Any, name: str) -> None:
    """Remove an attribute of an object that is an input."""
    if name in _slots(type(owner)):
        object.__delattr__(owner, name)
    else:
        del vars(owner)[name]


def attributes_of(owner: Any) -> dict[str, Any]:
    """What an object has of its own, in its dictionary and in slots."""
    slots = {name: getattr(owner, name) for name in _slots(type(owner)) if hasattr(owner, name)}
    return {**slots, **getattr(owner, "__dict__", {})}


def _slots(kind: type) -> tuple[str, ...]:
    """Names of the slots that Python's classes have; those of others may be read only."""
    found: list[str] = []
    for base in kind.__mro__:
        given = vars(base).get("__slots__", ())
        names = [given] if isinstance(given, str) else given
        mangled = [f"_{base.__name__.lstrip('_')}{name}" if name.startswith("__") else name for name in names]
        found += [name for name in mangled if isinstance(vars(base).get(name), MemberDescriptorType)]
    return tuple(found)


WRITES = (put_item, remove_item, put_items, put_attribute, set_attribute, remove_attribute)
