"""Code of layers that computes on the ways it takes, whatever it might do on others, told from what of it ran.

While some layers of a class are traced, the instructions of the user's functions that run are noted. What these read
decides which way another layer goes: as long as it is equal, the same instructions run, and no others. So they alone
must be those of code that computes (``plain_code``): branches that are not taken, such as caches, may do anything.
Globals may be any objects: what they hold is compared.
"""

from __future__ import annotations

import dis
import functools
import inspect
import math
import os
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from fxquant.capture.fingerprint import fingerprint
from fxquant.capture.plain_code import (
    BUILTINS,
    CHANGING,
    LOADS_ATTRIBUTE,
    MAKES_TEXTS,
    NAMES,
    OF_TEXTS,
    NotPlainError,
    Reading,
    does_more,
    is_literal,
    is_torchs,
)
from fxquant.capture.source import is_own_file, is_torch_file, is_user_file

_ASK_BY_NAME = frozenset(("getattr", "hasattr"))  # attributes that no instruction mentions
_BUILTINS = BUILTINS | _ASK_BY_NAME | {"callable", "issubclass", "type", "sorted"}
_ABSENT = object()
_BY_NAME = ("__getattribute__", "__getattr__")
_OF_EVERY_OBJECT = frozenset((*_BY_NAME, "__dict__"))
_LOAD_VARIABLE = frozenset(("LOAD_FAST", "LOAD_DEREF", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW", "LOAD_GLOBAL"))
_LIBRARIES = (math, inspect)
_PLAIN_CLASSES = frozenset(("builtins", "collections", "collections.abc", "typing", "abc", "enum", "numbers", "types"))
# Python's own modules whose functions change nothing but what they make.
_PURE = tuple(f"{os.sep}{name}.py" for name in ("inspect", "_collections_abc", "enum", "abc", "typing", "types", "os"))


class WatchedCode:
    """What the code that ran in calls of layers of one class reads.

    Attributes:
        mentioned: attributes of whatever object.
        reads_all: whether it may read any attribute.
        is_plain: whether it did nothing else than compute.
    """

    def __init__(self) -> None:
        self.mentioned: set[str] = set()
        self.reads_all = False
        self.is_plain = True
        self._ran: dict[CodeType, tuple[dict[str, Any], set[int]]] = {}
        self._globals: dict[tuple[int, str], Any] = {}
        self._names: list[tuple[Mapping[str, Any], str]] = []
        self._by_name: dict[type, bool] = {}
        self._of_classes: dict[frozenset[type], list[tuple[Mapping[str, Any], str]]] = {}
        self._looked_at: dict[CodeType, int] = {}

    @property
    def size(self) -> int:
        """How many instructions were noted."""
        return sum(len(offsets) for _, offsets in self._ran.values())

    def may_read(self, name: str, kind: type) -> bool:
        """Whether the code may read an attribute of an object of some class."""
        return self.reads_all or name in self.mentioned or self._finds_by_name(kind)

    def _finds_by_name(self, kind: type) -> bool:
        """Whether a function ran that finds attributes of objects of a class, whatever they are called."""
        if kind not in self._by_name:
            functions = [vars(base).get(name) for base in kind.__mro__ for name in _BY_NAME]
            codes = [item.__code__ for item in functions if isinstance(item, FunctionType)]
            self._by_name[kind] = any(code in self._ran for code in codes)
        return self._by_name[kind]

    def _may_find(self, name: str, value: Any, kind: type) -> bool:
        """Whether the code may read data of a class without mentioning its name."""
        is_data = not isinstance(value, (FunctionType, staticmethod, classmethod, property))
        return is_data and not name.startswith("__") and self.may_read(name, kind)

    def now(self, kinds: frozenset[type]) -> Hashable:
        """What it reads outside of the objects of a layer, as it is now.

        Args:
            kinds: classes of the objects.

        Raises:
            NotPlainError: it did something else than compute.
        """
        if not self.is_plain:
            raise NotPlainError
        if kinds not in self._of_classes:
            classes = (*kinds, *(kind for kind in self._globals.values() if isinstance(kind, type)))
            bases: dict[Any, None] = dict.fromkeys(
                base for kind in classes for base in kind.__mro__ if not is_torchs(base)
            )
            bases.update(dict.fromkeys(item for item in self._globals.values() if isinstance(item, ModuleType)))
            self._of_classes[kinds] = [
                (vars(base), name)
                for base in bases
                for name, value in vars(base).items()
                if name in self.mentioned or (isinstance(base, type) and self._may_find(name, value, base))
            ]
        return tuple([_content(space.get(name, _ABSENT)) for space, name in (*self._of_classes[kinds], *self._names)])

    def absorb(self, other: WatchedCode | Reading) -> None:
        """Take over what is read by code that ran in a layer inside, or would have run in it."""
        self._by_name.clear()
        self._of_classes.clear()
        self.mentioned |= other.mentioned
        self.reads_all |= other.reads_all
        if isinstance(other, WatchedCode):
            self.is_plain &= other.is_plain
            for code, (globals_of, offsets) in other._ran.items():
                self.noted(code, globals_of).update(offsets)
            for space, name in other._names:
                self._name(space, name)
        else:
            for found in other.found:
                self._name(found.space, found.name)

    def noted(self, code: CodeType, space: dict[str, Any]) -> set[int]:
        """Where the instructions are that ran of some code; to be added to."""
        return self._ran.setdefault(code, (space, set()))[1]

    def look(self) -> None:
        """Learn from the instructions that ran."""
        self._by_name.clear()
        self._of_classes.clear()
        for code, (space, offsets) in self._ran.items():
            if len(offsets) == self._looked_at.get(code):
                continue
            self._looked_at[code] = len(offsets)
            is_part, instructions = False, _instructions(code)
            for index, item in enumerate(instructions):
                if item.offset in offsets or is_part:
                    self.is_plain &= self._instruction(item, code, space)
                    if item.opname == "LOAD_GLOBAL" and item.argval in _ASK_BY_NAME:
                        self._asked_by_name(instructions[index + 1 :])
                    if item.opname == "LOAD_GLOBAL" and space.get(item.argval) is os:
                        self.is_plain &= instructions[index + 1].argval in ("environ", "getenv")
                is_part = item.opname == "EXTENDED_ARG" and (item.offset in offsets or is_part)

    def _instruction(self, item: dis.Instruction, code: CodeType, space: dict[str, Any]) -> bool:
        """Whether an instruction computes; what it reads is noted."""
        name = item.argrepr if item.opname == "BINARY_OP" else str(item.argval)
        if does_more(item, code):
            return False
        self.reads_all |= item.opname in MAKES_TEXTS or name in OF_TEXTS
        if item.opname in LOADS_ATTRIBUTE:
            self.mentioned.add(name)
            self.reads_all |= name == "__dict__"
            special = name.startswith("__") and name not in NAMES and name not in _OF_EVERY_OBJECT
            return not special and name not in CHANGING and not name.startswith("set_")
        return item.opname != "LOAD_GLOBAL" or self._global(name, space)

    def _asked_by_name(self, following: list[dis.Instruction]) -> None:
        """Note what is asked for as in ``getattr(self.config, "scale", 1.0)``: any attribute, where it is computed."""
        loaded = [item for item in following if item.opname not in ("LOAD_ATTR", "PUSH_NULL", "EXTENDED_ARG", "CACHE")]
        is_named = len(loaded) > 1 and loaded[0].opname in _LOAD_VARIABLE and isinstance(loaded[1].argval, str)
        if is_named and loaded[1].opname == "LOAD_CONST":
            self.mentioned.add(loaded[1].argval)
        else:
            self.reads_all = True

    def _global(self, name: str, space: dict[str, Any]) -> bool:
        builtins_of = space.get("__builtins__", {})
        known = vars(builtins_of) if isinstance(builtins_of, ModuleType) else builtins_of
        if name not in space:
            found = known.get(name)
            return name in _BUILTINS or (isinstance(found, type) and issubclass(found, Exception))
        if name in _BUILTINS:  # a stand-in
            return True
        value = space[name]
        if isinstance(value, ModuleType):
            if value is os or is_user_file(getattr(value, "__file__", None) or ""):
                self._name(space, name)
                return True
            return value in _LIBRARIES or is_torchs(value)
        if isinstance(value, BuiltinFunctionType):
            return is_torchs(value) or value.__module__ == "math"
        if isinstance(value, type) and value.__module__.partition(".")[0] in sys.stdlib_module_names:
            return value.__module__ in _PLAIN_CLASSES or issubclass(value, Exception)
        self._name(space, name)
        return True

    def _name(self, space: Mapping[str, Any], name: str) -> None:
        if (id(space), name) not in self._globals:
            self._globals[id(space), name] = space.get(name)
            self._names.append((space, name))


class Watch:
    """Notes the instructions of the user's functions that run in layers, for the innermost layer that is watched."""

    def __init__(self) -> None:
        self.inside: list[WatchedCode] = []
        self._users: dict[CodeType, bool] = {}

    @property
    def may_begin(self) -> bool:
        """Whether there is no debugger, nor anything like it."""
        return bool(self.inside) or sys.gettrace() is None

    @contextmanager
    def noting(self, watched: WatchedCode) -> Iterator[None]:
        """Inside, what runs is noted; the layer around gets it too."""
        if not self.inside:
            sys.settrace(self._begin())
        self.inside.append(watched)
        try:
            yield
        finally:
            self.inside.pop()
            if not self.inside:
                sys.settrace(None)
            watched.look()
            if self.inside:
                self.inside[-1].absorb(watched)

    def _begin(self) -> Callable[[FrameType, str, Any], Any]:
        """What is told of every call."""
        inside, users = self.inside, self._users

        def begin(frame: FrameType, event: str, given: Any) -> Any:
            code = frame.f_code
            is_users = users.get(code)
            if is_users is None:
                is_users = _is_users(frame, users)
                if not code.co_filename.startswith("<"):
                    users[code] = is_users
            if not is_users:
                caller = frame.f_back
                if caller is not None and users.get(caller.f_code) and not code.co_filename.endswith(_PURE):
                    inside[-1].is_plain &= is_seen_otherwise(code.co_filename)
                return None
            note = inside[-1].noted(code, frame.f_globals).add
            frame.f_trace_opcodes, frame.f_trace_lines = True, False

            def watch(frame: FrameType, event: str, given: Any) -> Any:
                if event == "opcode":
                    note(frame.f_lasti)
                return watch

            return watch

        return begin


@functools.lru_cache(maxsize=512)
def _instructions(code: CodeType) -> list[dis.Instruction]:
    return list(dis.get_instructions(code))


def _is_users(frame: FrameType, users: Mapping[CodeType, bool]) -> bool:
    """Whether code is the user's; what was made from a text, as by data classes, where the user or torch calls it."""
    file, caller = frame.f_code.co_filename, frame.f_back
    if not file.startswith("<"):
        return is_user_file(file)
    if file.startswith("<frozen") or caller is None:
        return False
    owner = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    is_called = users.get(caller.f_code, False) or is_torch_file(caller.f_code.co_filename)
    return owner not in ("torch", "fxquant") and is_called


def is_seen_otherwise(file: str) -> bool:
    """Whether a file is torch's or of this package: what it does leaves nodes and facts."""
    return is_torch_file(file) or is_own_file(file) or file.startswith("<")


def _content(value: Any) -> Hashable:
    """What is equal while what a name stands for is the same, and holds the same."""
    if value is os or value is os.environ:
        return tuple(vars(os.environ)["_data"].items())  # asked as the user does it, it would leave facts
    if is_literal(value):
        return repr(value)
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    elif isinstance(value, property):
        return id(value), _content(value.fget)
    if isinstance(value, FunctionType):
        holds = value.__closure__ or value.__defaults__ or value.__kwdefaults__ or vars(value)
        return id(value), id(value.__code__), repr(fingerprint(value)) if holds else ""
    return id(value) if isinstance(value, (type, ModuleType)) else (id(value), repr(fingerprint(value)))
