"""Functions that a model keeps and that refer to the model: hooks, lambdas, wrapped methods.

``self.act = lambda x: self.scale * x`` keeps the model in a variable of the function. Copying a model leaves functions
as they are, so that its copy would read, and change, the model that it is a copy of. Here the copy gets functions of
its own.
"""

from __future__ import annotations

import collections
import copy
import functools
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_CONTAINERS = (list, dict, set, collections.deque)
CACHED = functools._lru_cache_wrapper  # what ``functools.cache`` makes of a function
LITERALS = frozenset((bool, int, float, str, type(None)))  # most attributes of modules are of these types
# Attributes of every module that hold its hooks.
HOOKS = frozenset(name for name, value in vars(nn.Module()).items() if "hooks" in name and isinstance(value, dict))
_OF_MODULES = HOOKS | {"_parameters", "_buffers", "_modules"}
_DEPTH = 4
_LARGEST_CONTAINER = 2000
_copies: weakref.WeakKeyDictionary[CodeType, weakref.WeakSet[FunctionType]] = weakref.WeakKeyDictionary()


def copies_with(code: CodeType) -> list[FunctionType]:
    """The functions with this code that were made here and are still there."""
    return list(_copies.get(code, ()))


def functions_kept(model: nn.Module) -> list[FunctionType]:
    """The functions that the modules of a model keep: as attributes, as hooks, in containers, around one another."""
    return OwnFunctions(model.modules()).every


class OwnFunctions:
    """The functions of a model that keep it, or something that it holds, in their variables.

    Args:
        modules: of the model.
        attributes: what ``Inventory.attributes`` gives for these, where it is known.

    Attributes:
        copies: the copy of each that refers to the model, by id of the function; what they keep is still to be set.
            Functions with a cache have an empty one.
        bound: ids of the objects whose methods the model keeps: a copy of the model gets those of their copies.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        attributes: Iterable[tuple[str, nn.Module, list[tuple[str, Any]]]] | None = None,
    ) -> None:
        every = list(modules)
        self._held: dict[int, Any] = {id(module): module for module in every}
        self._functions: dict[int, FunctionType] = {}
        self._cached: dict[int, Any] = {}
        self.bound = set[int]()
        held = [vars(module).items() for module in every] if attributes is None else [items for *_, items in attributes]
        for items in held:
            for name, value in items:
                if (type(value) not in LITERALS and name not in _OF_MODULES) or (name in HOOKS and value):
                    self._look(value, _DEPTH)
        self._cells: dict[int, tuple[CellType, CellType]] = {}
        self._known: dict[int, bool] = {}
        self._wrapped: list[tuple[Any, list[Callable[..., Any]]]] = []
        self.copies: dict[int, Any] = {
            key: self._copy(item) for key, item in self._functions.items() if self._refers(item)
        }
        self.copies |= {key: self._copy_cached(item) for key, item in self._cached.items() if self._is_of_model(item)}

    @property
    def every(self) -> list[FunctionType]:
        """All functions that the model keeps, whether they refer to it or not."""
        return list(self._functions.values())

    def bind(self, memo: dict[int, Any]) -> None:
        """Let the copies keep what was copied.

        Args:
            memo: of ``copy.deepcopy``, which has copied the model.
        """
        for cell, new in self._cells.values():
            new.cell_contents = self._bound(cell.cell_contents, memo)
        for made, wrapped in self._wrapped:
            wrapped.append(copy.deepcopy(made.__wrapped__, memo))
            made.__wrapped__ = wrapped[0]

    def _bound(self, kept: Any, memo: dict[int, Any]) -> Any:
        """The same for a copy of the model; of what containers hold, the rest stays as it is."""
        if id(kept) in memo or not any(self._is_of_model(item) for item in _inside(kept)):
            return memo.get(id(kept), kept)
        if isinstance(kept, weakref.ref):
            return weakref.ref(copy.deepcopy(kept(), memo))
        if type(kept) in (list, tuple):
            made: Any = type(kept)(self._bound(item, memo) for item in kept)
        elif type(kept) is dict:
            made = {key: self._bound(item, memo) for key, item in kept.items()}
        else:
            return copy.deepcopy(kept, memo)
        memo[id(kept)] = made
        return made

    def _look(self, value: Any, depth: int) -> None:
        """Note the functions and containers in what a module holds."""
        if depth == 0 or isinstance(value, (nn.Module, Tensor)):
            return
        if isinstance(value, FunctionType):
            if id(value) not in self._functions:
                self._functions[id(value)] = value
                for cell in value.__closure__ or ():
                    self._look_through(cell, depth)
        elif isinstance(value, MethodType):
            self.bound.add(id(value.__self__))
        elif isinstance(value, functools.partial):
            for item in parts_of_partial(value):
                self._look(item, depth - 1)
        elif isinstance(value, CACHED):
            self._cached[id(value)] = value
            self._look(value.__wrapped__, depth - 1)
        elif isinstance(value, _CONTAINERS) and id(value) not in self._held:
            self._held[id(value)] = value
            for item in () if not value else list(value.values() if isinstance(value, dict) else value):
                self._look(item, depth - 1)
        elif isinstance(value, tuple):
            for item in value:
                self._look(item, depth - 1)

    def _look_through(self, cell: CellType, depth: int) -> None:
        """Functions around functions: what a function keeps is no part of the model unless the model holds it."""
        kept = cell_content(cell)
        if isinstance(kept, (FunctionType, functools.partial, CACHED)):
            self._look(kept, depth - 1)

    def _refers(self, function: FunctionType) -> bool:
        """Whether a function keeps something that the model holds."""
        if id(function) not in self._known:
            self._known[id(function)] = False  # while it is looked at
            kept = (item for cell in function.__closure__ or () for item in _inside(cell_content(cell)))
            self._known[id(function)] = any(self._is_of_model(item) for item in kept)
        return self._known[id(function)]

    def _is_of_model(self, item: Any) -> bool:
        if isinstance(item, FunctionType):
            return id(item) in self._functions and self._refers(item)
        if isinstance(item, CACHED):
            return id(item) in self._cached and any(map(self._is_of_model, _inside(item.__wrapped__)))
        if isinstance(item, RemovableHandle):
            return id(item.hooks_dict_ref()) in self._held
        return id(item) in self._held

    def _copy(self, function: FunctionType) -> FunctionType:
        cells = tuple(self._cell(cell) for cell in function.__closure__ or ())
        made = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
        made.__kwdefaults__ = function.__kwdefaults__
        functools.update_wrapper(made, function)
        if not hasattr(function, "__wrapped__"):
            del made.__wrapped__  # type: ignore[attr-defined]
        _copies.setdefault(function.__code__, weakref.WeakSet()).add(made)
        return made

    def _copy_cached(self, function: Any) -> Any:
        wrapped: list[Callable[..., Any]] = []
        made: Any = functools.lru_cache(**function.cache_parameters())(
            lambda *args, **kwargs: wrapped[0](*args, **kwargs)
        )
        functools.update_wrapper(made, function)
        self._wrapped.append((made, wrapped))
        made.__wrapped__ = function.__wrapped__
        return made

    def _cell(self, cell: CellType) -> CellType:
        """A variable that refers to the model is another one in the copy; others stay shared."""
        if not any(self._is_of_model(item) for item in _inside(cell_content(cell))):
            return cell
        return self._cells.setdefault(id(cell), (cell, CellType()))[1]


def _inside(kept: Any, depth: int = 2) -> Iterator[Any]:
    """What a variable refers to: an object, that of a method, what partial calls are given, what containers hold."""
    yield kept
    if isinstance(kept, MethodType):
        yield kept.__self__
    elif isinstance(kept, weakref.ref):
        yield kept()
    elif isinstance(kept, functools.partial):
        for item in parts_of_partial(kept):
            yield from _inside(item, depth)
    elif depth and isinstance(kept, (*_CONTAINERS, tuple)) and len(kept) <= _LARGEST_CONTAINER:
        for item in list(kept.values() if isinstance(kept, dict) else kept):
            yield from _inside(item, depth - 1)


def parts_of_partial(call: functools.partial[Any]) -> list[Any]:
    """What a partial call calls, and what it is given."""
    return [call.func, *call.args, *call.keywords.values()]


def cell_content(cell: CellType, unset: Any = None) -> Any:
    """What a variable around a function holds; ``unset`` where that is not there yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return unset
