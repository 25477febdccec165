"""Proxies of containers and whole numbers, as ``match`` statements and abstract classes see them.

Whether a subject is a sequence or a mapping is asked of its type, in C, and torch's modules ask of a size whether it is
a ``numbers.Integral``: such proxies are of types of their own, which Python knows to be such.
"""

from __future__ import annotations

import collections.abc
import numbers
from typing import Any

from fxquant.capture.proxy import ValueProxy


class SequenceProxy(ValueProxy):
    """A proxy of a tuple or a list."""


class IntegerProxy(ValueProxy):
    """A proxy of a whole number, which nothing goes through."""

    __iter__ = None  # type: ignore[assignment]


class MappingProxy(ValueProxy):
    """A proxy of a dictionary."""

    def get(self, key: Any, default: Any = None) -> Any:
        """What ``dict.get`` gives."""
        return self[key] if key in self.value else default  # type: ignore[index]


collections.abc.Sequence.register(SequenceProxy)
collections.abc.Mapping.register(MappingProxy)
numbers.Integral.register(IntegerProxy)


def type_for(value: Any) -> type[ValueProxy]:
    """The type of the proxy of a value."""
    if isinstance(value, (tuple, list)):
        return SequenceProxy
    if isinstance(value, int) and not isinstance(value, bool):
        return IntegerProxy
    return MappingProxy if isinstance(value, dict) else ValueProxy
