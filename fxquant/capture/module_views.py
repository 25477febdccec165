"""Modules as a part that runs as Python sees them: only the parameters that it reads are its own."""

from __future__ import annotations

from typing import Any

from torch import nn

from fxquant.ir.float_part import FloatPart

_STRUCTURE = ("_modules", "_parameters", "_buffers")


class ModuleViews:
    """The views of one trace; there is one for each module and choice of attributes."""

    def __init__(self) -> None:
        self._views: dict[Any, nn.Module] = {}
        self._parts: list[tuple[nn.Module, nn.Module, dict[str, dict[str, Any]]]] = []

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
            vars(view).update(vars(module))
            for name in _STRUCTURE:
                entries = {key: item for key, item in vars(module)[name].items() if every or key in attributes}
                vars(view)[name] = {key: item for key, item in entries.items() if not isinstance(item, FloatPart)}
            self._views[key] = view
            self._parts.append((view, module, {name: dict(vars(view)[name]) for name in _STRUCTURE}))
        return self._views[key]

    def restore(self) -> None:
        """Give every view the attributes that its module has, which were put back: parts that ran may have set some."""
        for view, module, structure in self._parts:
            vars(view).clear()
            vars(view).update({**vars(module), **structure})


def _names_in(module: nn.Module) -> set[str]:
    return {*vars(module), *module._modules, *module._parameters, *module._buffers}
