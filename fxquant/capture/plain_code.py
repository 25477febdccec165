"""Code of layers that computes from its arguments and from what its own object holds, and does nothing else.

Told from the bytecode of a class's ``forward``, of the methods that it mentions, and of the functions of the user's
that it calls: they read no globals but torch's and constants, set nothing but local variables, keep no variables, and
are no generators but those of expressions. What they open blocks with can only be torch's: such blocks leave facts.
"""

from __future__ import annotations

import builtins
import dis
import math
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from torch import nn

from fxquant.capture.builtins_on_proxies import stands_for_builtin
from fxquant.ir.codes import codes_in

# Instructions that set or remove what is no local variable, or begin what does more than compute.
_DO_MORE = frozenset(
    ("STORE_ATTR", "DELETE_ATTR", "STORE_SUBSCR", "DELETE_SUBSCR", "STORE_GLOBAL", "DELETE_GLOBAL", "IMPORT_NAME",
     "BEFORE_ASYNC_WITH", "YIELD_VALUE", "SEND", "GET_AWAITABLE", "LOAD_BUILD_CLASS", "STORE_DEREF")
)  # fmt: skip
_BUILTINS = frozenset(
    ("len", "range", "int", "float", "bool", "tuple", "list", "dict", "isinstance", "zip", "enumerate", "min", "max",
     "sum", "abs", "round", "super", "reversed", "any", "all", "slice", "divmod", "pow", "str", "repr")
)  # fmt: skip
# Attributes and methods that change what they are of, or that look where nobody expects it.
_CHANGING = frozenset(
    ("append", "extend", "insert", "pop", "popitem", "update", "setdefault", "clear", "remove", "discard", "sort",
     "reverse", "appendleft", "popleft", "move_to_end", "manual_seed", "seed", "grad", "data")
)  # fmt: skip
_NAMES = frozenset(("__class__", "__name__", "__qualname__", "__module__"))
_BEGINS = ("forward", "__call__", "__getattr__", "__getattribute__")
_LITERALS = (int, float, complex, bool, str, bytes, type(None))

# What constants are called, and the globals or the class that they are in.
Constants = Mapping[tuple[int, str], Any]


class NotPlainError(Exception):
    """Code that may do something else."""


class PlainCode:
    """What is known of the classes that a trace meets."""

    def __init__(self) -> None:
        self._known: dict[type[nn.Module], Constants | None] = {}

    def constants_of(self, kind: type[nn.Module]) -> Constants:
        """The constants outside of its objects that the code of a class reads.

        Raises:
            NotPlainError: it does something else than compute.
        """
        if kind not in self._known:
            try:
                self._known[kind] = dict(_of_class(kind))
            except NotPlainError:
                self._known[kind] = None
        found = self._known[kind]
        if found is None:
            raise NotPlainError
        return found


def value_of(owner: Any, name: str) -> Any:
    """The present value of a constant."""
    return owner.get(name) if isinstance(owner, dict) else vars(owner).get(name)


def is_literal(value: Any) -> bool:
    """Whether a value is a number, a text, None, or a tuple of those."""
    return isinstance(value, _LITERALS) or (type(value) is tuple and all(map(is_literal, value)))


def _of_class(kind: type) -> Iterator[tuple[tuple[int, str], Any]]:
    bases = [base for base in kind.__mro__ if base is not object and not is_torchs(base)]
    waiting, seen, functions = list(_BEGINS), set[str](), set[Any]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for base in bases:
            if name in vars(base):
                value = vars(base)[name]
                if is_literal(value):
                    yield (id(base), name), base
                    continue
                function = _function_of(value)
                yield from _of_function(function, functions)
                waiting += _attributes_in(function)


def _function_of(value: Any) -> Any:
    """The function behind an attribute of a class."""
    if isinstance(value, property):
        return value.fget
    return value.__func__ if isinstance(value, (staticmethod, classmethod)) else value


def _attributes_in(function: FunctionType) -> Iterator[str]:
    for code in codes_in(function.__code__):
        for item in dis.get_instructions(code):
            if item.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
                yield item.argval


def _of_function(function: Any, seen: set[Any]) -> Iterator[tuple[tuple[int, str], Any]]:
    if type(function) is not FunctionType or hasattr(function, "__wrapped__"):
        raise NotPlainError
    if function in seen:
        return
    seen.add(function)
    given = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    if function.__code__.co_freevars not in ((), ("__class__",)) or not all(map(is_literal, given)):
        raise NotPlainError
    for code in codes_in(function.__code__):
        yield from _of_code(code, function.__globals__, seen)


def _of_code(code: CodeType, space: dict[str, Any], seen: set[Any]) -> Iterator[tuple[tuple[int, str], Any]]:
    for item in dis.get_instructions(code):
        name = str(item.argval)
        if item.opname in _DO_MORE and not _is_local(item, code):
            raise NotPlainError
        if item.opname in ("LOAD_ATTR", "LOAD_METHOD") and name not in _NAMES and _may_change(name):
            raise NotPlainError
        if item.opname == "LOAD_GLOBAL" and name in space:
            yield from _of_global(name, space, seen)
        elif item.opname == "LOAD_GLOBAL" and not hasattr(builtins, name):
            yield (id(space), name), space  # not there yet, on a path that is not taken
        elif item.opname == "LOAD_GLOBAL" and name not in _BUILTINS and not _is_exception(name):
            raise NotPlainError


def _may_change(name: str) -> bool:
    return name in _CHANGING or name.startswith(("__", "set_"))


def _is_local(item: dis.Instruction, code: CodeType) -> bool:
    """Whether an instruction sets a variable of its own function, or is that of a generator expression."""
    if item.opname == "STORE_DEREF":
        return item.argval in code.co_cellvars
    return item.opname == "YIELD_VALUE" and code.co_name == "<genexpr>"


def _of_global(name: str, space: dict[str, Any], seen: set[Any]) -> Iterator[tuple[tuple[int, str], Any]]:
    value = space[name]
    if name in _BUILTINS and stands_for_builtin(value):
        return
    if is_literal(value):
        yield (id(space), name), space
    elif isinstance(value, ModuleType):
        if not is_torchs(value) and value is not math:
            raise NotPlainError
    elif not isinstance(value, (BuiltinFunctionType, FunctionType, type)):
        raise NotPlainError
    elif not is_torchs(value) and not (isinstance(value, type) and value.__module__ == "builtins"):
        yield from _of_function(_behind(value), seen)


def _behind(function: Any) -> Any:
    """A function marked with ``torch.fx.wrap``, in whose place another one stands while a trace runs."""
    return getattr(function, "__dict__", {}).get("opens", function)


def is_torchs(thing: Any) -> bool:
    """Whether a module, a class or a function is torch's own."""
    name = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None) or "torch"
    return str(name).partition(".")[0] == "torch"


def _is_exception(name: str) -> bool:
    found = getattr(builtins, name, None)
    return isinstance(found, type) and issubclass(found, Exception)
