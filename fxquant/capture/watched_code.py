"""Code of layers that computes on the ways it takes, whatever it might do on others, told from what of it ran.

While some layers of a class are traced, the instructions of the user's functions that run are noted. What these read
decides which way another layer goes: as long as it is equal, the same instructions run, and no others. So they alone
must be those of code that computes (``plain_code``): branches that are not taken, such as caches, may do anything.
Globals may be any objects: what they hold is compared.
"""

from __future__ import annotations

import dis
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
    does_more,
    is_literal,
    is_torchs,
)
from fxquant.capture.source import is_own_file, is_torch_file, is_user_file
from fxquant.ir.codes import codes_in

_ASK_BY_NAME = frozenset(("getattr", "hasattr"))  # attributes that no instruction mentions
_BUILTINS = BUILTINS | _ASK_BY_NAME | {"callable", "issubclass", "type", "sorted"}
_ABSENT = object()
_BY_NAME = ("__getattribute__", "__getattr__")
_OF_EVERY_OBJECT = frozenset((*_BY_NAME, "__dict__"))
_LOAD_VARIABLE = frozenset(("LOAD_FAST", "LOAD_DEREF", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW", "LOAD_GLOBAL"))
_LIBRARIES = (math, os, inspect)
# Python's own modules whose functions change nothing but what they make.
_PURE = tuple(f"{os.sep}{name}.py" for name in ("inspect", "_collections_abc", "enum", "abc", "typing", "types", "os"))


class WatchedCode:
    """What the code that ran in calls of layers of one class reads.

    Attributes:
        mentioned: attributes of whatever object.
        reads_all: whether it may read any attribute.
        is_plain: whether it did nothing else than compute.
        size: how many instructions were noted.
    """

    def __init__(self) -> None:
        self.mentioned: set[str] = set()
        self.reads_all = False
        self.is_plain = True
        self.size = 0
        self._ran: dict[CodeType, tuple[dict[str, Any], set[int]]] = {}
        self._globals: dict[tuple[int, str], Any] = {}
        self._names: list[tuple[Mapping[str, Any], str]] = []
        self._by_name: dict[type, bool] = {}
        self._of_classes: dict[frozenset[type], list[tuple[Mapping[str, Any], str]]] = {}
        self._users: dict[CodeType, bool] = {}

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
            bases = dict.fromkeys(base for kind in classes for base in kind.__mro__ if not is_torchs(base))
            self._of_classes[kinds] = [
                (vars(base), name)
                for base in bases
                for name, value in vars(base).items()
                if name in self.mentioned or (self.may_read(name, base) and _is_data(name, value))
            ]
        return tuple([_content(space.get(name, _ABSENT)) for space, name in (*self._of_classes[kinds], *self._names)])

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, instructions are noted."""
        before = sys.gettrace()
        sys.settrace(self._begin(before))
        try:
            yield
        finally:
            sys.settrace(before)
            self._look()

    def _begin(self, around: Any) -> Callable[[FrameType, str, Any], Any]:
        """What is told of every call; ``around`` watches too: layers in layers."""
        ran, users = self._ran, self._users

        def begin(frame: FrameType, event: str, given: Any) -> Any:
            further = around(frame, event, given) if around is not None else None
            code, caller = frame.f_code, frame.f_back
            is_called_by_user = caller is not None and caller.f_code in ran
            is_users = users.get(code)
            if is_users is None:
                is_users = _is_users(frame, is_called_by_user)
                if not code.co_filename.startswith("<"):
                    users[code] = is_users
            if not is_users:
                if is_called_by_user and not code.co_filename.endswith(_PURE):
                    self.is_plain &= is_seen_otherwise(code.co_filename)
                return further
            _, offsets = ran.setdefault(code, (frame.f_globals, set()))
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            note = offsets.add

            def watch(frame: FrameType, event: str, given: Any) -> Any:
                if event == "opcode":
                    note(frame.f_lasti)
                if further is not None:
                    further(frame, event, given)
                return watch

            return watch

        return begin

    def _look(self) -> None:
        """Learn from the instructions that ran."""
        size = sum(len(offsets) for _, offsets in self._ran.values())
        if size == self.size:
            return
        self.size = size
        self._by_name.clear()
        self._of_classes.clear()
        for code, (space, offsets) in self._ran.items():
            is_part = False  # of an instruction that began before it
            instructions = list(dis.get_instructions(code))
            for index, item in enumerate(instructions):
                if item.offset in offsets or is_part:
                    self.is_plain &= self._instruction(item, code, space)
                    if item.opname == "LOAD_GLOBAL" and item.argval in _ASK_BY_NAME:
                        self._asked_by_name(instructions[index + 1 :])
                is_part = item.opname == "EXTENDED_ARG" and (item.offset in offsets or is_part)

    def _instruction(self, item: dis.Instruction, code: CodeType, space: dict[str, Any]) -> bool:
        """Whether an instruction computes; what it reads is noted."""
        name = item.argrepr if item.opname == "BINARY_OP" else str(item.argval)
        if does_more(item, code):
            return False
        if item.opname in LOADS_ATTRIBUTE:
            self.mentioned.add(name)
            self.reads_all |= name == "__dict__"
            special = name.startswith("__") and name not in NAMES and name not in _OF_EVERY_OBJECT
            return not special and name not in CHANGING and not name.startswith("set_")
        self.reads_all |= item.opname in MAKES_TEXTS or name in OF_TEXTS
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
            return value in _LIBRARIES or is_torchs(value) or is_user_file(getattr(value, "__file__", None) or "")
        if isinstance(value, BuiltinFunctionType):
            return is_torchs(value) or value.__module__ == "math"
        if (id(space), name) not in self._globals:
            self._globals[id(space), name] = value
            self._names.append((space, name))
        return True


_WATCHING = tuple(code for code in codes_in(WatchedCode._begin.__code__) if code.co_name == "begin")


def is_watching() -> bool:
    """Whether code is being watched here, and not by a debugger or the like."""
    return getattr(sys.gettrace(), "__code__", None) in _WATCHING


def _is_users(frame: FrameType, is_called_by_user: bool) -> bool:
    """Whether code is the user's; what was made from a text, as by data classes, where the user or torch calls it."""
    file = frame.f_code.co_filename
    if not file.startswith("<"):
        return is_user_file(file)
    caller = "" if frame.f_back is None else frame.f_back.f_code.co_filename
    if file.startswith("<frozen"):
        return False
    owner = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return owner not in ("torch", "fxquant") and (is_called_by_user or is_torch_file(caller))


def is_seen_otherwise(file: str) -> bool:
    """Whether a file is torch's or of this package: what it does leaves nodes and facts."""
    return is_torch_file(file) or is_own_file(file) or file.startswith("<")


def _is_data(name: str, value: Any) -> bool:
    """Whether an attribute of a class is one that only code which finds it by its name would read."""
    return not (name.startswith("__") or isinstance(value, (FunctionType, staticmethod, classmethod, property)))


def _content(value: Any) -> Hashable:
    """What is equal while what a name stands for is the same, and holds the same."""
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
