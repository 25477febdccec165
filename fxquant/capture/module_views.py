"""Modules as a part that runs as Python sees them: only the parameters that it reads are its own."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from fxquant.ir.float_part import FloatPart
from fxquant.ir.own_functions import OwnFunctions

_STRUCTURE = ("_modules", "_parameters", "_buffers")


class ModuleViews:
    """The views of one trace; there is one for each module and choice of attributes."""

    def __init__(self) -> None:
        self._views: dict[Any, nn.Module] = {}
        self._made: dict[int, tuple[nn.Module, nn.Module, frozenset[str] | None]] = {}

    def of(self, module: nn.Module, attributes: set[str | None]) -> nn.Module:
        """A module of the same class with the same attributes, of which only those named keep parameters.

        Args:
            module: one of the model's.
            attributes: what is read of it; ``None`` among them for all.
        """
        methods = any(name is not None and name in dir(type(module)) for name in attributes)
        every = None in attributes or methods or any(name not in _names_in(module) for name in attributes)
        key = (id(module), None if every else frozenset(attributes))
        if key not in self._views:
            view = type(module).__new__(type(module))
            chosen = None if every else frozenset(name for name in attributes if name is not None)
            self._views[key] = view
            self._made[id(view)] = view, module, chosen
            _fill(view, module, chosen)
        return self._views[key]

    def again(self, view: nn.Module, module: nn.Module) -> nn.Module:
        """A view of another module, with the same choice of attributes as one that was made before."""
        _, known, chosen = self._made[id(view)]
        return view if known is module else self.of(module, {None} if chosen is None else {*chosen})

    def restore(self) -> None:
        """Give every view what its module has, class and attributes, put back already: parts may have set others."""
        for view, module, chosen in self._made.values():
            if type(view) is not type(module):
                view.__class__ = type(module)
            vars(view).clear()
            _fill(view, module, chosen)


def _fill(view: nn.Module, module: nn.Module, chosen: frozenset[str] | None) -> None:
    """Give a view what its module holds; of its children and tensors those chosen, None for all.

    Functions that refer to the module, and methods of it, such as hooks, get the view in its place. A hook on a child
    may do so too; then the view has children of its own. Tensors stay the same ones.
    """
    children = {name: child for name, child in module._modules.items() if not isinstance(child, FloatPart)}
    held = {**vars(module), "_modules": children}
    functions = OwnFunctions(
        [module, *(part for child in children.values() if child is not None for part in child.modules())]
    )
    if functions.copies or id(module) in functions.bound:
        memo: dict[int, Any] = {id(item): item for item in (*module.parameters(), *module.buffers())}
        memo.update(functions.copies)
        memo[id(module)] = view
        held = copy.deepcopy(held, memo)
        functions.bind(memo)
    for name in _STRUCTURE:
        held[name] = {key: item for key, item in held[name].items() if chosen is None or key in chosen}
    vars(view).update(held)


def _names_in(module: nn.Module) -> set[str]:
    return {*vars(module), *module._modules, *module._parameters, *module._buffers}
