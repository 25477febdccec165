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
    """

    def __init__(self, target: Callable[..., Built], keywords: dict[str, Any]) -> None:
        self.target = target
        self.keywords = dict(keywords)

    def __call__(self, *args: Any, **keywords: Any) -> Built:
        """Builds one; ``keywords`` override the kept ones."""
        return self.target(*args, **{**self.keywords, **keywords})

    def with_args(self, **keywords: Any) -> ObserverFactory[Built]:
        """A new factory with some arguments added or changed."""
        return ObserverFactory(self.target, {**self.keywords, **keywords})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ObserverFactory):
            return NotImplemented
        return self.target == other.target and self.keywords == other.keywords

    def __hash__(self) -> int:
        return hash((self.target, tuple(sorted(self.keywords))))

    def __repr__(self) -> str:
        name = getattr(self.target, "__qualname__", repr(self.target))
        return f"{name}.with_args({', '.join(f'{key}={value!r}' for key, value in self.keywords.items())})"
