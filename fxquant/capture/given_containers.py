"""Dictionaries and lists that are inputs and that forward changes: a graph changes those of its caller at its end.

Before::

    cache["key"] = torch.cat([cache["key"], k], 1)

After: the code works on a dictionary of proxies, and the graph ends with ``put_item(%cache, "key", %cat)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fxquant.ir.write_back import put_item, put_items, remove_item

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer


class GivenContainers:
    """The containers among the inputs of one trace."""

    def __init__(self) -> None:
        self._noted: list[tuple[Any, Any, Callable[[], Any]]] = []

    def note(self, container: Any, given: Callable[[], Any]) -> None:
        """Remember the contents of a container.

        Args:
            container: of proxies, which forward gets.
            given: the proxy of the caller's container.
        """
        self._noted.append((container, container.copy(), given))

    def write_back(self, tracer: ValueTracer) -> None:
        """Record what forward changed, behind everything that it did."""
        for container, before, given in self._noted:
            if isinstance(container, dict):
                kept = [key for key in before if key in container]
                kept = kept if list(container)[: len(kept)] == kept else []  # in another order, all are set anew
                for key in [key for key in before if key not in kept]:
                    tracer.create_proxy("call_function", remove_item, (given(), key), {})
                for key, item in container.items():
                    if key not in kept or before[key] is not item:
                        tracer.create_proxy("call_function", put_item, (given(), key, item), {})
            elif len(container) != len(before) or any(a is not b for a, b in zip(container, before, strict=True)):
                tracer.create_proxy("call_function", put_items, (given(), list(container)), {})
