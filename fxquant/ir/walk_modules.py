"""The modules and tensors of a model by path, in a fifth of the time that torch's recursive generators take."""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from fxquant.ir.own_functions import LITERALS

OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_NO_TENSORS = LITERALS | {dict, OrderedDict, set, list, tuple}


class Inventory:
    """What a model holds, each kind of it looked up once, while the model stays as it is.

    Args:
        model: any module.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @cached_property
    def modules(self) -> list[tuple[str, nn.Module]]:
        """See ``modules_by_path``."""
        return modules_by_path(self.model)

    @cached_property
    def classes(self) -> list[type]:
        """The classes of the modules, and the classes that these are made of."""
        own = dict.fromkeys(type(module) for _, module in self.modules)
        return list(dict.fromkeys(kind for made in own for kind in made.__mro__))

    @cached_property
    def attributes(self) -> list[tuple[str, nn.Module, list[tuple[str, Any]]]]:
        """Path, module and attributes of each module that has some which are no literals; its tables where filled."""
        found = []
        for path, module in self.modules:
            items = [
                (name, value)
                for name, value in vars(module).items()
                if type(value) not in LITERALS and (name not in OF_EVERY_MODULE or value)
            ]
            if items:
                found.append((path, module, items))
        return found

    @cached_property
    def tensors(self) -> list[tuple[str, Tensor]]:
        """See ``tensors_by_path``."""
        return _tensors_of(self.modules)

    @cached_property
    def plain_tensors(self) -> list[tuple[str, Tensor]]:
        """Tensors that modules keep as attributes, neither parameters nor buffers."""
        return [
            (f"{path}.{name}" if path else name, item)
            for path, _, items in self.attributes
            for name, item in items
            if type(item) not in _NO_TENSORS and isinstance(item, Tensor)
        ]

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """``list(model.parameters())``."""
        held = (item for _, module in self.modules if module._parameters for item in module._parameters.values())
        return list({id(item): item for item in held if item is not None}.values())


def modules_by_path(model: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """``list(model.named_modules(prefix=prefix))``: every module once, under the first of its names."""
    found, seen, waiting = list[tuple[str, nn.Module]](), set[int](), [(prefix, model)]
    while waiting:
        path, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        found.append((path, module))
        before = f"{path}." if path else ""
        children = [(before + name, child) for name, child in module._modules.items() if child is not None]
        waiting += reversed(children)
    return found


def tensors_by_path(model: nn.Module, prefix: str = "") -> list[tuple[str, Tensor]]:
    """Parameters and buffers, each under every name that a module has it by."""
    return _tensors_of(modules_by_path(model, prefix))


def _tensors_of(modules: list[tuple[str, nn.Module]]) -> list[tuple[str, Tensor]]:
    found = list[tuple[str, Tensor]]()
    for path, module in modules:
        before = f"{path}." if path else ""
        for held in (module._parameters, module._buffers):
            if held:
                found += [(before + name, item) for name, item in held.items() if isinstance(item, Tensor)]
    return found
