"""Making objects again inside a graph: what a model takes or returns need not be tensors and containers alone.

Before: ``return Output(logits=x, cache=Cache())``, where ``Cache`` keeps tensors as attributes.

After: ``%make_cache = make_Cache({"keys": %k, "values": %v})``
"""

from __future__ import annotations

from typing import Any


class Rebuild:
    """Makes an object of a class from its attributes, without calling its ``__init__``.

    Args:
        kind: the class; instances keep their attributes in ``__dict__``.
    """

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.__name__ = f"make_{kind.__name__}"
        self.__qualname__ = self.__name__
        self.__module__ = __name__

    def __call__(self, parts: dict[str, Any]) -> Any:
        """Return the object.

        Args:
            parts: its attributes by name.
        """
        kind: Any = self.kind
        made = kind.__new__(kind)
        vars(made).update(parts)
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rebuild) and other.kind is self.kind

    def __hash__(self) -> int:
        return hash(self.kind)

    def __reduce__(self) -> tuple[Any, ...]:
        return Rebuild, (self.kind,)


class Refill(Rebuild):
    """Makes a mapping of a class from its entries: ``OrderedDict``, ``defaultdict``, classes derived from ``dict``."""

    def __call__(self, parts: dict[Any, Any]) -> Any:
        """Return the mapping.

        Args:
            parts: its entries.
        """
        made = self.kind()
        for key, item in parts.items():
            made[key] = item
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Refill, (self.kind,)


def complete(made: Any, entries: dict[Any, Any], attributes: dict[str, Any]) -> Any:
    """Give a container of a class of its own what it does not have by being made; returns it.

    Args:
        made: a list, a tuple or a mapping.
        entries: of a mapping.
        attributes: by name.
    """
    for key, item in entries.items():
        made[key] = item
    for name, item in attributes.items():
        setattr(made, name, item)
    return made
