"""A part of the user's model that runs as Python inside a graph, because no graph can hold what it does.

Before::

    y = self.conv(x)
    if y.sum() > 0:
        y = y * 2

After: ``%conv = conv2d(%x, ...);  %part = call_module[forward_line_12](%conv);  %y = getitem(%part, 0)``
"""

from __future__ import annotations

import ast
import copy
import importlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.errors import FxquantError
from fxquant.ir.codes import codes_in
from fxquant.ir.contents import contents, same_contents
from fxquant.ir.part_state import PartState, every_attribute

_DEPTH = 3
PYTHON = "fxquant_python"  # key of a node's meta: it runs a part of the user's Python
COMPUTES, HOLDS = "computes", "holds"  # what that does: has tensors of modules, or none but those that it is given
WRITES = "fxquant_writes"  # key of a node's meta: which of its inputs such a part may write into
EFFECTS = "fxquant_effects"  # key of a node's meta: it runs the user's Python, and stays when nothing reads its result


@dataclass(frozen=True)
class Hole:
    """Stands for an input of a part in its arguments."""

    index: int


@dataclass(frozen=True)
class Child:
    """Stands for a module in the arguments of a part."""

    name: str


@dataclass(frozen=True)
class BoundMethod:
    """Stands for a method of a module, or of an input, in the arguments of a part."""

    of: Child | Hole
    name: str


@dataclass(frozen=True)
class Imported:
    """Stands for a module of Python in the arguments of a part."""

    name: str


class PartCode:
    """Statements of the user's, as a function. In a file it is kept as source.

    Args:
        source: defines a function ``part``, or a class with that method.
        module: name of the user's module, whose globals it reads.
        file, first_line: where the statements are.
        function: the function, when it is compiled already.
    """

    def __init__(
        self, source: str, module: str, file: str, first_line: int, function: FunctionType | None = None
    ) -> None:
        self.source, self.module, self.file, self.first_line = source, module, file, first_line
        self._function = function

    def __call__(self, /, **values: Any) -> Any:
        """What the statements return, or the names they set.

        Args:
            values: the local names they read.
        """
        if self._function is None:
            tree = ast.increment_lineno(ast.parse(self.source), self.first_line - 1)
            space = vars(importlib.import_module(self.module))
            self._function = FunctionType(find_code(compile(tree, self.file, "exec"), "part"), space, "part")
        return self._function(**values)

    @property
    def space(self) -> dict[str, Any]:
        """The globals that it reads."""
        return vars(importlib.import_module(self.module)) if self._function is None else self._function.__globals__

    def __reduce__(self) -> tuple[Any, ...]:
        return PartCode, (self.source, self.module, self.file, self.first_line)

    def __deepcopy__(self, memo: dict[int, Any]) -> PartCode:
        return self


class ForwardCall:
    """The whole of a module, its hooks included."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """What the module returns."""
        return module(*args, **kwargs)


class FloatPart(nn.Module):
    """Runs a part of the user's model as Python.

    Args:
        code: called with the arguments by name.
        arguments: by name, with a ``Hole`` for each input of the part, a ``Child`` for each module, and a
            ``BoundMethod`` for each method of one of those.
        children: the modules by name.
        title: what it is, for people: ``lines 12-14 of Gate.forward``.
        file, first_line, last_line: where it is in the user's source, "" and 0 when unknown.
        module_path: module whose forward it is a part of.

    Attributes:
        why: what stands in the way of a graph there: ``tensor-branch at `y.sum() > 0```.
        label: what it is registered as on the root, but for a number.
        child_paths: where its modules are in the user's model, by name.
        sizes_only: whether it only computes from sizes; it may be left out when nothing reads what it gives.
        writes: which of its inputs its source may write into.
        repeats: whether other layers may have parts like it without running the Python around it.
        shared: names of arguments that others may hold too, and whose contents it has for itself: it must not change
            them.
        lasting: those of them that outlive a call.
        report_change: called with the name of one that it changed; None to raise an error.
        reads: by path in it, names of attributes that code around it reads. globals_read: the same of globals.
        may_change: those that it may change: all that it does change while the graph is compared with eager.
        learns: whether it is.
        keeps_nothing: whether it does the same in every call, for the same inputs, as its source shows.
        spoilt: name of one that it changed since, "" for none: the graph around it has that as it was.
    """

    def __init__(
        self,
        code: Callable[..., Any],
        arguments: Mapping[str, Any],
        children: Mapping[str, nn.Module],
        title: str,
        file: str = "",
        lines: tuple[int, int] = (0, 0),
        module_path: str = "",
    ) -> None:
        super().__init__()
        self.code, self.arguments = code, dict(arguments)
        self.title, self.file, self.module_path = title, file, module_path
        self.first_line, self.last_line = lines
        self.why = self.label = ""
        self.child_paths: dict[str, str] = {}
        self.sizes_only = self.repeats = self.keeps_nothing = False
        self.writes: tuple[int, ...] = ()
        self.shared: tuple[str, ...] = ()
        self.lasting: tuple[str, ...] = ()
        self.report_change: Callable[[str], None] | None = None
        self.reads: dict[str, frozenset[str]] = {}
        self.globals_read: frozenset[str] = frozenset()
        self.may_change: set[str] = set()
        self.learns = True
        self.spoilt = ""
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, *inputs: Any) -> Any:
        """What the part computes.

        Args:
            inputs: tensors and numbers, one per ``Hole``.

        Raises:
            FxquantError: for these inputs, it changes what others hold, which it did not for the example.
        """
        values = {name: self._fill(item, inputs) for name, item in self.arguments.items()}
        before = {name: contents(values[name], _DEPTH) for name in self.shared}
        modules = list(self.modules())
        buffers = [(module._buffers, name, item) for module in modules for name, item in module._buffers.items()]
        held = _tables_of(modules[1:]) if isinstance(self.code, PartCode) else ()  # all else is inside of it
        state = self._state()
        result = self.code(**values)
        for table, name, item in buffers:
            if table.get(name) is not item:
                _write_back(table, name, item)
        self._look_for_changes(state)
        for owner, table, entries in held:
            if list(table) != list(entries) or any(table[name] is not entries[name] for name in entries):
                what = f"children or parameters of a {type(owner).__name__}"
                self._changed(what, what, True)
        for name, kept in before.items():
            if not same_contents(kept, contents(values[name], _DEPTH)):
                self._changed(name, f"{type(values[name]).__name__} {name!r}", name in self.lasting)
        return result

    def _state(self) -> PartState | None:
        """What it may change and the graph around it has built in, as it is now."""
        if self.spoilt:
            self._raise_spoilt()
        if not self.learns and not self.reads and not self.globals_read:
            return None
        space = self.code.space if isinstance(self.code, PartCode) else {}
        reads = self.reads if self.reads or not self.learns else every_attribute(self)
        return PartState(self, reads, space, self.globals_read)

    def _look_for_changes(self, state: PartState | None) -> None:
        changed = set(state.changed()) if state is not None else set()
        if self.learns:
            self.may_change |= changed
        elif not changed <= self.may_change:
            self.spoilt = min(changed - self.may_change)
            self._raise_spoilt()

    def _raise_spoilt(self) -> None:
        raise self._error(
            f"changed {self.spoilt!r}, and did not when the model was captured: code around it reads that, and the "
            "graph has it as it was",
            "it changes",
        )

    def _changed(self, name: str, what: str, lasts: bool) -> None:
        """Report, or refuse, that it changed something; where that outlives the call, later calls are refused too."""
        if self.report_change is not None:
            self.report_change(name)
            return
        if lasts:
            self.spoilt = name
        raise self._error(f"changes the {what} for these inputs, and did not when the model was captured", "it does")

    def _error(self, what: str, needed: str) -> FxquantError:
        """What it did, and what example inputs would have to show."""
        return FxquantError(
            f"{self.title}, which runs as Python, {what}",
            module_path=self.module_path,
            source=f"{self.file}:{self.first_line}" if self.file else "",
            remedy=f"prepare the model with example_inputs for which {needed}, or keep the module float: "
            f"PrepareCustomConfig().set_non_traceable_module_names([{self.module_path!r}])",
        )

    def _fill(self, structure: Any, inputs: tuple[Any, ...]) -> Any:
        if isinstance(structure, Hole):
            return inputs[structure.index]
        if isinstance(structure, Child):
            return getattr(self, structure.name)
        if isinstance(structure, BoundMethod):
            return getattr(self._fill(structure.of, inputs), structure.name)
        if isinstance(structure, Imported):
            return importlib.import_module(structure.name)
        if isinstance(structure, tuple) and hasattr(structure, "_fields"):  # a named tuple
            return type(structure)(*(self._fill(item, inputs) for item in structure))
        if type(structure) in (tuple, list, set, frozenset):
            return type(structure)(self._fill(item, inputs) for item in structure)
        if isinstance(structure, deque):
            return deque((self._fill(item, inputs) for item in structure), structure.maxlen)
        if isinstance(structure, slice):
            return slice(*(self._fill(item, inputs) for item in (structure.start, structure.stop, structure.step)))
        if isinstance(structure, dict):
            made = copy.copy(structure)  # of its class, as a ``defaultdict`` with what it makes
            made.update({key: self._fill(item, inputs) for key, item in structure.items()})
            return made
        return structure

    def extra_repr(self) -> str:
        """The title."""
        return self.title


def _tables_of(modules: Iterable[nn.Module]) -> list[tuple[nn.Module, dict[str, Any], dict[str, Any]]]:
    """Some modules with the children and parameters that each has, and with a copy of these."""
    tables = ((module, table) for module in modules for table in (module._modules, module._parameters) if table)
    return [(module, table, dict(table)) for module, table in tables]


def _write_back(table: dict[str, Tensor | None], name: str, buffer: Tensor | None) -> None:
    """What code put in the place of a buffer is written into it: the graph around it has the buffer too."""
    value = table.get(name)
    if buffer is not None and value is not None and value.shape == buffer.shape and value.dtype == buffer.dtype:
        with torch.no_grad():
            buffer.copy_(value)
        table[name] = buffer


def find_code(code: CodeType, name: str) -> CodeType:
    """The code of a function in compiled source, by its name.

    Raises:
        LookupError: there is none.
    """
    for inner in codes_in(code):
        if inner.co_name == name:
            return inner
    raise LookupError(name)


def runs_user_code(module: nn.Module) -> bool:
    """Whether calling a module may do more than compute: the user's modules and parts, but for those about sizes."""
    if isinstance(module, FloatPart):
        return not module.sizes_only
    return not type(module).__module__.startswith("torch.nn.")
