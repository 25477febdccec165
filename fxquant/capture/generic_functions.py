"""Functions with ``functools.singledispatch``: they choose by a class, which is that of a proxy's value here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

from fxquant.capture.proxy import ValueProxy


def is_generic(function: Any) -> bool:
    """Whether a function was made by ``functools.singledispatch``."""
    parts = vars(function) if isinstance(function, FunctionType) else {}
    return "registry" in parts and "dispatch" in parts and "register" in parts


def generic_functions(space: dict[str, Any]) -> Iterator[Any]:
    """Those among the globals of a file."""
    return (value for value in list(space.values()) if is_generic(value))


def dispatching_on_values(function: Any) -> Callable[..., Any]:
    """What stands for such a function during a trace."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], ValueProxy):
            return function.dispatch(type(args[0].value))(*args, **kwargs)
        return function(*args, **kwargs)

    call.stands_for = function  # type: ignore[attr-defined]
    return call
