"""Code of layers that computes on the ways it takes, whatever it might do on others, told from what of it ran.

While some layers of a class are traced, the instructions of the user's functions that run are noted. What these read
decides which way another layer goes: as long as it is equal, the same instructions run, and no others. So they alone
must be those of code that computes (``plain_code``): branches that are not taken, such as caches, may do anything.
Globals may be any objects: what they hold is compared.
"""

from __future__ import annotations

import builtins
import dis
import functools
import inspect
import math
import os
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from fxquant.capture.builtins_on_proxies import stands_for_builtin
from fxquant.capture.contents import Contents, environment, is_users_class
from fxquant.capture.cut_function import PART
from fxquant.capture.plain_code import (
    BUILTINS,
    CHANGING,
    LOADS_ATTRIBUTE,
    MAKES_TEXTS,
    NAMES,
    OF_TEXTS,
    NotPlainError,
    Reading,
    changes_of_own,
    does_more,
    is_called_by_python,
)
from fxquant.capture.source import is_own_file, is_torch_file, is_user_file
from fxquant.capture.variables import MISSING

_ASK_BY_NAME = frozenset(("getattr", "hasattr"))  # attributes that no instruction mentions
_BUILTINS = BUILTINS | _ASK_BY_NAME | {"callable", "issubclass", "type", "sorted"}
_BY_NAME = ("__getattribute__", "__getattr__")
_VARIABLES = ("LOAD_FAST", "LOAD_DEREF", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW", "LOAD_GLOBAL", "LOAD_CONST")
_CALLS = ("PRECALL", "CALL", "CALL_FUNCTION", "KW_NAMES")
_NOTHING = ("CACHE", "EXTENDED_ARG", "PUSH_NULL")
# Functions of Python's own that the user's code may call: they change nothing, and read what they are given.
_PURE: Mapping[str, frozenset[str]] = {
    "inspect.py": frozenset(("signature", "parameters")),
    "_collections_abc.py": frozenset(
        ("get", "__contains__", "__getitem__", "__iter__", "__len__", "__eq__", "keys", "values", "items")
    ),
    "enum.py": frozenset(("__get__", "value", "name", "__hash__")),
    "os.py": frozenset(("__getitem__", "getenv", "encode", "decode")),
}
_PLAIN_CLASSES = frozenset(("builtins", "collections", "collections.abc", "typing", "abc", "enum", "numbers", "types"))
_Space = Mapping[str, Any]


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
        self._ran: dict[tuple[CodeType, int], tuple[dict[str, Any], set[int]]] = {}
        self._names: dict[tuple[int, str], _Space] = {}
        self._reads_environment = False
        self._held: dict[int, FunctionType] = {}
        self._by_name: dict[type, bool] = {}
        self._read: dict[frozenset[type], tuple[list[_Space], list[tuple[_Space, str]]]] = {}
        self._looked_at: dict[tuple[CodeType, int], int] = {}

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
            codes = {item.__code__ for item in functions if isinstance(item, FunctionType)}
            self._by_name[kind] = any(code in codes for code, _ in self._ran)
        return self._by_name[kind]

    def content_of(self, function: FunctionType) -> Hashable:
        """The content of a function that a layer holds.

        Raises:
            NotPlainError: it holds what cannot be read.
        """
        if id(function) not in self._held:
            self._held[id(function)] = function
            self._read.clear()
        return Contents().of(function)

    def now(self, kinds: frozenset[type]) -> Hashable:
        """What it reads outside of the objects of a layer, as it is now.

        Args:
            kinds: classes of the objects.

        Raises:
            NotPlainError: it did something else than compute, or reads what cannot be compared.
        """
        if not self.is_plain:
            raise NotPlainError
        if kinds not in self._read:
            self._read[kinds] = self._find(kinds)
        spaces, names = self._read[kinds]
        contents = Contents(gathers=False)
        found = tuple([contents.of(space.get(name, MISSING)) for space, name in names])
        return tuple(map(len, spaces)), found, environment() if self._reads_environment else None

    def _find(self, kinds: frozenset[type]) -> tuple[list[_Space], list[tuple[_Space, str]]]:
        """Classes and modules whose attributes are read, and all names that are; every function that ran is behind one.

        Raises:
            NotPlainError: one is behind none.
        """
        contents, spaces, names = Contents(), dict[int, _Space](), dict(self._names)
        for (_, name), space in self._names.items():
            contents.of(space.get(name, MISSING))
        for held in (*kinds, *self._held.values()):
            contents.of(held)
        looked_at = -1
        while looked_at != len(spaces):
            looked_at = len(spaces)
            bases = dict.fromkeys(base for kind in contents.classes for base in kind.__mro__ if is_users_class(base))
            owners: tuple[type | ModuleType, ...] = (*bases, *contents.modules)
            for owner in owners:
                if id(owner) not in spaces:
                    spaces[id(owner)] = space = vars(owner)
                    for name in [name for name in space if self._reads_of(owner, name)]:
                        contents.of(space[name])
                        names[id(owner), name] = space
        if any(code not in contents.codes for code, _ in self._ran):
            raise NotPlainError
        return list(spaces.values()), [(space, name) for (_, name), space in names.items()]

    def _reads_of(self, owner: type | ModuleType, name: str) -> bool:
        """Whether the code may read an attribute of a class or a module."""
        if name in self.mentioned:
            return True
        if isinstance(owner, ModuleType):
            return False
        if name == "forward" or is_called_by_python(name):
            return isinstance(vars(owner)[name], FunctionType)
        value = vars(owner)[name]
        is_data = not isinstance(value, (FunctionType, staticmethod, classmethod, property))
        return is_data and not name.startswith("__") and self.may_read(name, owner)

    def absorb(self, other: WatchedCode | Reading) -> None:
        """Take over what is read by code that ran in a layer inside, or would have run in it."""
        self._by_name.clear()
        self._read.clear()
        self.mentioned |= other.mentioned
        self.reads_all |= other.reads_all
        if isinstance(other, WatchedCode):
            self.is_plain &= other.is_plain
            self._reads_environment |= other._reads_environment
            self._held.update(other._held)
            self._names.update(other._names)
            for (code, _), (space, offsets) in other._ran.items():
                self.noted(code, space).update(offsets)
        else:
            self._names.update({(id(found.space), found.name): found.space for found in other.found})

    def noted(self, code: CodeType, space: dict[str, Any]) -> set[int]:
        """Where the instructions are that ran of some code; to be added to."""
        return self._ran.setdefault((code, id(space)), (space, set()))[1]

    def look(self) -> None:
        """Learn from the instructions that ran."""
        self._by_name.clear()
        self._read.clear()
        for key, (space, offsets) in self._ran.items():
            if len(offsets) == self._looked_at.get(key):
                continue
            self._looked_at[key] = len(offsets)
            is_part, called, instructions = False, "", _instructions(key[0])
            for index, item in enumerate(instructions):
                if item.offset in offsets or is_part:
                    self.is_plain &= self._instruction(item, key[0])
                    if item.opname == "LOAD_GLOBAL":
                        is_for_part = item.argval == "locals" and called.startswith(PART)
                        self.is_plain &= is_for_part or self._global(item.argval, space, instructions[index + 1 :])
                        called = item.argval
                is_part = item.opname == "EXTENDED_ARG" and (item.offset in offsets or is_part)

    def _instruction(self, item: dis.Instruction, code: CodeType) -> bool:
        """Whether an instruction computes; what it reads is noted."""
        name = item.argrepr if item.opname == "BINARY_OP" else str(item.argval)
        if does_more(item, code):
            return False
        self.reads_all |= item.opname in MAKES_TEXTS or name in OF_TEXTS
        if item.opname in LOADS_ATTRIBUTE:
            self.mentioned.add(name)
            self.reads_all |= name == "__dict__"
            if name in _BY_NAME:  # of objects of the class that it is of, see ``_finds_by_name``
                return code.co_name in _BY_NAME
            special = name.startswith("__") and name not in NAMES and name != "__dict__"
            may_change = name in CHANGING or name.startswith("set_")
            return not special and (not may_change or item.offset in changes_of_own(code))
        return True

    def _global(self, name: str, space: dict[str, Any], following: list[dis.Instruction]) -> bool:
        """Whether a global, or a builtin, is something that computes; what it holds is noted."""
        rest = [item for item in following[:16] if item.opname not in _NOTHING]
        value = space.get(name, MISSING)
        if value is MISSING or (name in _BUILTINS and stands_for_builtin(value)):
            if name in _ASK_BY_NAME:
                self._asked_by_name(rest)
            found = getattr(builtins, name, None)
            return name in _BUILTINS or (isinstance(found, type) and issubclass(found, Exception))
        if value is os or value is os.environ or value is os.getenv:
            self._reads_environment = True
            return value is not os or (bool(rest) and rest[0].argval in ("environ", "getenv"))
        if value is math or (value is inspect and rest and rest[0].argval == "signature"):
            return True
        if isinstance(value, type) and value.__module__.partition(".")[0] in sys.stdlib_module_names:
            return value.__module__ in _PLAIN_CLASSES or issubclass(value, Exception)
        self._names[id(space), name] = space
        return True

    def _asked_by_name(self, rest: list[dis.Instruction]) -> None:
        """Note what is asked for as in ``getattr(self.config, "scale", 1.0)``: any attribute, where it is computed."""
        rest = [item for item in rest if item.opname != "LOAD_ATTR"]
        is_named = len(rest) > 2 and rest[0].opname in _VARIABLES and rest[1].opname == "LOAD_CONST"
        ends = is_named and (
            rest[2].opname in _CALLS or (len(rest) > 3 and rest[2].opname in _VARIABLES and rest[3].opname in _CALLS)
        )
        if ends and isinstance(rest[1].argval, str):
            self.mentioned.add(rest[1].argval)
        else:
            self.reads_all = True


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

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, where none of the user's code runs, nobody is told of calls, which takes long."""
        if self.inside:
            sys.settrace(None)
        try:
            yield
        finally:
            if self.inside:
                sys.settrace(self._begin())

    def _begin(self) -> Callable[[FrameType, str, Any], Any]:
        """What is told of every call."""
        inside, users = self.inside, self._users

        def begin(frame: FrameType, event: str, given: Any) -> Any:
            code = frame.f_code
            is_users = users.get(code)
            if is_users is None:
                is_users = users[code] = _is_users(frame)
            if not is_users:
                caller = frame.f_back
                if caller is not None and users.get(caller.f_code):
                    inside[-1].is_plain &= _may_run(code)
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


def _is_users(frame: FrameType) -> bool:
    """Whether code is the user's; what was made from a text, as by data classes, is that of whose file it is."""
    file = frame.f_code.co_filename
    if not file.startswith("<"):
        return is_user_file(file)
    owner = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    others = owner in ("torch", "fxquant", "numpy") or (owner in sys.stdlib_module_names and owner != "__main__")
    return not (file.startswith("<frozen") or others or owner.startswith("namedtuple_"))


def _may_run(code: CodeType) -> bool:
    """Whether the user's code may call a function of somebody else: torch's leave nodes, and facts."""
    file = code.co_filename
    if is_torch_file(file) or is_own_file(file) or file.startswith("<"):
        return True
    return code.co_name in _PURE.get(os.path.basename(file), ())
