"""A class and the arguments to build it with, kept for later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

Built = TypeVar("Built")


class ObserverFactory(Generic[Built]):
    """Builds a new observer each time it is called; what ``with_args`` of an observer class returns.

    It pickles and copies as long as its target is a module-level name and its arguments do, and two factories
    are equal when they would build the same thing.

    Args:
        target: an observer class, or any callable that builds one.
        keywords: arguments of the target.
        callables: arguments that are computed anew for each observer, by calling these.
    """

    def __init__(
        self,
        target: Callable[..., Built],
        keywords: dict[str, Any],
        callables: dict[str, Callable[[], Any]] | None = None,
    ) -> None:
        self.target = target
        self.keywords = dict(keywords)
        self.callables = dict(callables or {})

    def __call__(self, *args: Any, **keywords: Any) -> Built:
        """Builds one; ``keywords`` override the kept ones."""
        computed = {name: make() for name, make in self.callables.items() if name not in keywords}
        return self.target(*args, **{**self.keywords, **computed, **keywords})

    def with_args(self, **keywords: Any) -> ObserverFactory[Built]:
        """A new factory with some arguments added or changed."""
        callables = {name: make for name, make in self.callables.items() if name not in keywords}
        return ObserverFactory(self.target, {**self.keywords, **keywords}, callables)

    def with_callable_args(self, **callables: Callable[[], Any]) -> ObserverFactory[Built]:
        """A new factory with some arguments that are computed when an observer is built."""
        return ObserverFactory(self.target, self.keywords, {**self.callables, **callables})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ObserverFactory):
            return NotImplemented
        return (self.target, self.keywords, self.callables) == (other.target, other.keywords, other.callables)

    def __hash__(self) -> int:
        return hash((self.target, tuple(sorted({**self.keywords, **self.callables}))))

    def __repr__(self) -> str:
        name = getattr(self.target, "__qualname__", repr(self.target))
        parts = (("with_args", self.keywords), ("with_callable_args", self.callables))
        shown = [f".{method}({_listed(given)})" for method, given in parts if given]
        return name + ("".join(shown) or ".with_args()")


def _listed(given: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in given.items())
