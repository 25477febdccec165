"""Code of layers that computes from its arguments and from what its own object holds, and does nothing else.

Told from the bytecode of the ``forward`` of a layer's classes, of the methods that it mentions, and of the functions of
the user's that it calls: they read no globals but torch's and constants, set nothing but local variables, keep no
variables, and are no generators but those of expressions. What they open blocks with can only be torch's: such blocks
leave facts.
"""

from __future__ import annotations

import abc
import builtins
import dis
import functools
import inspect
import itertools
import math
import types
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from fxquant.capture.builtins_on_proxies import stands_for_builtin
from fxquant.ir.codes import codes_in

# Instructions that set or remove what is no local variable, or begin what does more than compute.
_DO_MORE = frozenset(
    ("STORE_ATTR", "DELETE_ATTR", "STORE_SUBSCR", "DELETE_SUBSCR", "STORE_GLOBAL", "DELETE_GLOBAL", "IMPORT_NAME",
     "BEFORE_ASYNC_WITH", "YIELD_VALUE", "SEND", "GET_AWAITABLE", "LOAD_BUILD_CLASS", "STORE_DEREF")
)  # fmt: skip
BUILTINS = frozenset(
    ("len", "range", "int", "float", "bool", "tuple", "list", "dict", "isinstance", "zip", "enumerate", "min", "max",
     "sum", "abs", "round", "super", "reversed", "any", "all", "slice", "divmod", "pow", "str", "repr",
     "NotImplemented")
)  # fmt: skip
# Methods that change lists, dictionaries and sets; the instructions that make a new one of those.
_OF_CONTAINERS = frozenset(
    ("append", "extend", "insert", "pop", "popitem", "update", "setdefault", "clear", "remove", "discard", "sort",
     "reverse")
)  # fmt: skip
_MAKE_CONTAINERS = frozenset(("BUILD_LIST", "BUILD_MAP", "BUILD_SET", "BUILD_CONST_KEY_MAP"))
# Attributes and methods that change what they are of, or that look where nobody expects it.
CHANGING = _OF_CONTAINERS | frozenset(
    ("appendleft", "popleft", "move_to_end", "manual_seed", "seed", "grad", "data", "builtins", "tree_map",
     "tree_map_only", "tree_leaves", "tree_flatten", "tree_iter", "backends", "get_num_threads",
     "are_deterministic_algorithms_enabled", "get_float32_matmul_precision", "get_deterministic_debug_mode")
)  # fmt: skip
NAMES = frozenset(("__class__", "__name__", "__qualname__", "__module__"))
_BEGINS = ("forward", "__call__", "__getattr__", "__getattribute__", "keys")  # ``f(**mapping)`` asks for the last
# Of the methods that Python calls by itself, those that no layer's forward makes it call.
_NOT_CALLED = frozenset(
    ("__init__", "__new__", "__init_subclass__", "__class_getitem__", "__repr__", "__str__", "__dir__", "__setstate__",
     "__getstate__", "__deepcopy__", "__copy__", "__reduce__", "__reduce_ex__", "__del__", "__setattr__", "__delattr__",
     "__sizeof__", "__module__", "__doc__", "__annotations__", "__dict__", "__weakref__", "__parameters__",
     "__orig_bases__", "__abstractmethods__", "__static_attributes__", "__firstlineno__", "__annotate__", "__slots__",
     "__annotate_func__", "__annotations_cache__", "__constants__", "__jit_unused_properties__",
     "__dataclass_fields__", "__dataclass_params__", "__post_init__", "__slotnames__")
)  # fmt: skip
_OF_PYTHON = (object, types.SimpleNamespace)  # classes without code of their own
# What may tell of any attribute: texts of objects, and patterns. ``%`` may make a text too.
OF_TEXTS = ("str", "repr", "ascii", "format", "format_map", "%", "%=")
MAKES_TEXTS = ("FORMAT_VALUE", "FORMAT_SIMPLE", "FORMAT_WITH_SPEC", "MATCH_CLASS")
_MAKE_TEXTS = ("__str__", "__repr__", "__format__", "extra_repr", "_get_name")
_LITERALS = (int, float, complex, bool, str, bytes, type(None))
_LOOK_INTO_OBJECTS = ("torch.utils._pytree", "torch.utils._cxx_pytree")  # as the user's classes told them to
_READ_ATTRIBUTE = ("LOAD_ATTR", "LOAD_METHOD")
LOADS_ATTRIBUTE = (*_READ_ATTRIBUTE, "LOAD_SUPER_ATTR")
_KEPT_BY_US = {"opens"}  # see ``_behind``

_ABSENT = object()


class NotPlainError(Exception):
    """Code that may do something else."""


@dataclass(frozen=True)
class Name:
    """A global, or an attribute of a class.

    Attributes:
        owner: number of the globals or of the class. name: in it.
        space: what it is looked up in.
    """

    owner: int
    name: str
    space: Mapping[str, Any] = field(compare=False)

    def now(self, was: int | None) -> Hashable:
        """A constant's present value; of anything else, that it is what it ``was``.

        Raises:
            NotPlainError: it is something else.
        """
        value = self.space.get(self.name, _ABSENT)
        if is_literal(value):
            return repr(value)
        if id(value) != was:
            raise NotPlainError
        return was


def is_literal(value: Any) -> bool:
    """Whether a value is a number, a text, None, or a tuple of those."""
    return isinstance(value, _LITERALS) or (type(value) is tuple and all(map(is_literal, value)))


class Reading:
    """What the code of classes reads.

    Args:
        kinds: the classes.

    Attributes:
        found: outside of their objects: identities of what the names stand for; None for constants.
        mentioned: attributes of whatever object.
        reads_all: whether it may read any attribute.

    Raises:
        NotPlainError: it does something else than compute.
    """

    def __init__(self, kinds: frozenset[type]) -> None:
        self.found: dict[Name, int | None] = {}
        self.mentioned: set[str] = set()
        self.reads_all = False
        self._functions: dict[FunctionType, CodeType] = {}
        self._bases = list(dict.fromkeys(base for kind in kinds for base in kind.__mro__ if _is_users(base)))
        self._waiting = [*_BEGINS, *(name for base in self._bases for name in vars(base) if is_called_by_python(name))]
        if any(type(kind) not in (type, abc.ABCMeta) for kind in kinds):
            raise NotPlainError
        while self._waiting:
            name = self._waiting.pop()
            if name not in self.mentioned:
                self.mentioned.add(name)
                self._attribute(name)

    def now(self) -> Hashable:
        """The constants outside of the objects, as they are now.

        Raises:
            NotPlainError: something else than a constant is no longer what was looked at.
        """
        if any(function.__code__ is not code for function, code in self._functions.items()):
            raise NotPlainError
        given = [repr((function.__defaults__, function.__kwdefaults__)) for function in self._functions]
        return tuple([(name.name, name.now(was)) for name, was in self.found.items()]), tuple(given)

    def may_read(self, name: str, kind: type) -> bool:
        """Whether the code may read an attribute of an object of some class."""
        return self.reads_all or name in self.mentioned

    def _attribute(self, name: str) -> None:
        """An attribute that the code mentions, wherever a class of the user's has it, or could have it."""
        for base in self._bases:
            value = vars(base).get(name, _ABSENT)
            is_constant = is_literal(value)
            self.found[Name(id(base), name, vars(base))] = None if is_constant else id(value)
            if isinstance(value, classmethod):  # it may make an object, whose constructor is not looked at
                raise NotPlainError
            if not is_constant and value is not _ABSENT:
                self._function(_function_of(value))

    def _function(self, function: Any) -> None:
        if type(function) is not FunctionType or vars(function).keys() - _KEPT_BY_US:
            raise NotPlainError
        if function in self._functions:
            return
        self._functions[function] = function.__code__
        given = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        if function.__code__.co_freevars not in ((), ("__class__",)) or not all(map(is_literal, given)):
            raise NotPlainError
        for code in codes_in(function.__code__):
            instructions = list(dis.get_instructions(code))
            for item, following in zip(instructions, [*instructions[1:], instructions[-1]], strict=True):
                self._instruction(item, code, function.__globals__)
                if item.argval == "__class__" and not _compares(code) and following.opname not in _READ_ATTRIBUTE:
                    raise NotPlainError  # it may be called

    def _instruction(self, item: dis.Instruction, code: CodeType, space: dict[str, Any]) -> None:
        name = item.argrepr if item.opname == "BINARY_OP" else str(item.argval)
        if does_more(item, code):
            raise NotPlainError
        may_change = item.opname in _READ_ATTRIBUTE and name not in NAMES and _may_change(name)
        if may_change and item.offset not in changes_of_own(code):
            raise NotPlainError
        if item.opname in LOADS_ATTRIBUTE:
            self._waiting.append(name)
        if item.opname in MAKES_TEXTS or name in OF_TEXTS:
            self._read_all()
        if item.opname == "LOAD_GLOBAL":
            self._global(name, space)

    def _read_all(self) -> None:
        self.reads_all = True
        self._waiting += _MAKE_TEXTS

    def _global(self, name: str, space: dict[str, Any]) -> None:
        value = space.get(name, _ABSENT)
        if value is _ABSENT and hasattr(builtins, name):
            if name not in BUILTINS and not _is_exception(name):
                raise NotPlainError
            return
        if name in BUILTINS and stands_for_builtin(value):
            return
        self.found[Name(id(space), name, space)] = None if is_literal(value) else id(value)
        if is_literal(value) or value is _ABSENT:  # not there yet, on a path that is not taken
            return
        if isinstance(value, ModuleType):
            if not is_torchs(value) and value is not math:
                raise NotPlainError
        elif not isinstance(value, (BuiltinFunctionType, FunctionType, type)) or value.__module__ in _LOOK_INTO_OBJECTS:
            raise NotPlainError
        elif value in (str, repr, format, ascii):  # by another name
            self._read_all()
        elif not is_torchs(value) and not (isinstance(value, type) and value.__module__ == "builtins"):
            self._function(_behind(value))


def _compares(code: CodeType) -> bool:
    """Whether a function is one that compares objects, as data classes have; it asks whether classes are the same."""
    return code.co_name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")


def is_called_by_python(name: str) -> bool:
    """Whether a method is called without being mentioned: ``self[0]``, ``with self:``."""
    return name.startswith("__") and name.endswith("__") and name not in _NOT_CALLED


def _function_of(value: Any) -> Any:
    """The function behind an attribute of a class."""
    if isinstance(value, property):
        return value.fget
    return value.__func__ if isinstance(value, staticmethod) else value


def _may_change(name: str) -> bool:
    return name in CHANGING or name.startswith(("__", "set_"))


@functools.lru_cache(maxsize=512)
def changes_of_own(code: CodeType) -> frozenset[int]:
    """Where a function asks for methods that change lists, dictionaries and sets which it made itself."""
    instructions = [item for item in dis.get_instructions(code) if item.opname not in ("CACHE", "EXTENDED_ARG")]
    pairs = list(itertools.pairwise(instructions))
    given = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)
    made, others = set[str](), set(code.co_varnames[: given + bool(code.co_flags & inspect.CO_VARKEYWORDS)])
    for before, item in pairs:
        if item.opname.startswith("STORE_FAST") or item.opname == "DELETE_FAST":
            is_new = item.opname == "STORE_FAST" and before.opname in _MAKE_CONTAINERS and not item.is_jump_target
            (made if is_new else others).update(item.argval if isinstance(item.argval, tuple) else (item.argval,))
    own = made - others
    return frozenset(
        item.offset
        for before, item in pairs
        if item.opname in _READ_ATTRIBUTE and item.argval in _OF_CONTAINERS and not item.is_jump_target
        and before.opname in ("LOAD_FAST", "LOAD_FAST_BORROW", "LOAD_FAST_CHECK") and before.argval in own
    )  # fmt: skip


def does_more(item: dis.Instruction, code: CodeType) -> bool:
    """Whether an instruction does something else than compute."""
    return item.opname in _DO_MORE and not _is_local(item, code)


def _is_local(item: dis.Instruction, code: CodeType) -> bool:
    """Whether an instruction sets a variable of its own function, or is that of a generator expression."""
    if item.opname == "STORE_DEREF":
        return item.argval in code.co_cellvars
    return item.opname == "YIELD_VALUE" and code.co_name == "<genexpr>"


def _behind(function: Any) -> Any:
    """A function marked with ``torch.fx.wrap``, in whose place another one stands while a trace runs."""
    return getattr(function, "__dict__", {}).get("opens", function)


def is_record(kind: type) -> bool:
    """Whether objects of a class are their attributes and the code of the class, written in Python."""
    if kind is types.SimpleNamespace:
        return True
    bases = kind.__mro__[:-1]
    return bool(has_attributes_only(kind) and bases) and not any(
        is_torchs(base) or "__slots__" in vars(base) for base in bases
    )


def has_attributes_only(kind: type) -> bool:
    """Whether objects of a class have a dictionary of attributes and, but for slots, room for nothing else."""
    return kind.__basicsize__ <= _Empty.__basicsize__ and not kind.__itemsize__ and bool(kind.__dictoffset__)


class _Empty:
    """Takes no more room than the attributes of any class."""


def _is_users(base: type) -> bool:
    return base not in _OF_PYTHON and not is_torchs(base)


def is_torchs(thing: Any) -> bool:
    """Whether a module, a class or a function is torch's own."""
    owner = getattr(thing, "__self__", None)
    if isinstance(thing, BuiltinFunctionType) and not (owner is None or isinstance(owner, ModuleType)):
        return False  # a method of an object
    name = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None) or "torch"
    return str(name).partition(".")[0] == "torch"


def _is_exception(name: str) -> bool:
    found = getattr(builtins, name, None)
    return isinstance(found, type) and issubclass(found, Exception)
