"""Functions that a graph calls by name or as a whole: random numbers of Python's, own backwards, TorchScript.

They are methods of objects that no file can hold, and a graph that draws random numbers must draw from the generator of
the process it runs in.
"""

from __future__ import annotations

import importlib
import io
import operator
from typing import Any

import torch


class NamedCall:
    """Calls a function that is looked up when it is called.

    Args:
        module: full name of a module, name: of the function in it, dots for attributes.
    """

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name
        self.__name__ = self.__qualname__ = name.replace(".", "_")
        self.__module__ = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns."""
        return operator.attrgetter(self.name)(importlib.import_module(self.module))(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamedCall) and (other.module, other.name) == (self.module, self.name)

    def __hash__(self) -> int:
        return hash((self.module, self.name))

    def __reduce__(self) -> tuple[Any, ...]:
        return NamedCall, (self.module, self.name)


class CustomFunctionCall:
    """Calls a ``torch.autograd.Function`` as a whole, so that its own backward is used.

    Args:
        kind: the function's class.
    """

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self.__name__ = self.__qualname__ = kind.__name__
        self.__module__ = kind.__module__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What ``kind.apply`` returns."""
        return self.kind.apply(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CustomFunctionCall) and other.kind is self.kind

    def __hash__(self) -> int:
        return hash(self.kind)

    def __reduce__(self) -> tuple[Any, ...]:
        return CustomFunctionCall, (self.kind,)


class ScriptCall:
    """Calls a function of TorchScript as a whole.

    Args:
        function: compiled by ``torch.jit.script``, or recorded by ``torch.jit.trace``.
    """

    def __init__(self, function: Any) -> None:
        self.function = function
        self.__name__ = self.__qualname__ = getattr(function, "name", "") or "scripted"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns."""
        return self.function(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ScriptCall) and other.function is self.function

    def __hash__(self) -> int:
        return id(self.function)

    def __deepcopy__(self, memo: dict[int, Any]) -> ScriptCall:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_script, (bytes(self.function.save_to_buffer()),)


def _load_script(saved: bytes) -> ScriptCall:
    return ScriptCall(torch.jit.load(io.BytesIO(saved)))  # type: ignore[no-untyped-call]
