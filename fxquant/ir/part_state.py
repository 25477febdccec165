"""What a part that runs as Python may change and the graph around it has built in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from fxquant.ir.contents import contents, same_contents
from fxquant.ir.walk_modules import OF_EVERY_MODULE

_DEPTH = 3
_MOST_MODULES = 500
_NEVER_BUILT_IN = (ModuleType, nn.Module)
_OTHERS = ("torch.", "builtins")
Reads = Mapping[str, frozenset[str]]


class PartState:
    """Attributes and globals that code outside of a part reads, as they are now.

    Args:
        part: its modules are looked at.
        reads: by path in it, names of attributes of the module there.
        space: the globals of its code. names: those of them that are looked at.
    """

    def __init__(self, part: nn.Module, reads: Reads, space: Mapping[str, Any], names: frozenset[str]) -> None:
        tables = [*_tables(part, reads), (space, names)]
        self._noted = [(table, wanted, _look_at(table, wanted)) for table, wanted in tables]

    def changed(self) -> Iterator[str]:
        """Names of what is not as it was."""
        for table, wanted, before in self._noted:
            now = _look_at(table, wanted)
            for name in before.keys() | now.keys():
                value, held = before.get(name, (None, None))
                other, holds = now.get(name, (None, None))
                if name not in before or name not in now or other is not value or not same_contents(held, holds):
                    yield name


def every_attribute(part: nn.Module) -> Reads:
    """The names of all that the modules of a part have, but for torch's own tables; () for very large ones."""
    modules = list(part.named_modules())[1:]
    return {path: frozenset(vars(item)) - OF_EVERY_MODULE for path, item in modules if len(modules) <= _MOST_MODULES}


def _tables(part: nn.Module, reads: Reads) -> Iterator[tuple[Mapping[str, Any], frozenset[str]]]:
    """(where names are looked up, the names)."""
    for path, module in part.named_modules():
        wanted = reads.get(path)
        if wanted:
            yield vars(module), wanted
            if type(module).__module__.startswith("torch.nn."):
                continue
            yield module._buffers, wanted
            yield module._modules, wanted
            yield from (
                (vars(kind), wanted) for kind in type(module).__mro__ if not kind.__module__.startswith(_OTHERS)
            )


def _look_at(table: Mapping[str, Any], wanted: frozenset[str]) -> dict[str, tuple[Any, Any]]:
    """What names stand for, those that are there, and what that holds."""
    return {name: _look(table[name]) for name in wanted & table.keys()}


def _look(value: Any) -> tuple[Any, Any]:
    if isinstance(value, FunctionType):
        return value, contents(vars(value), _DEPTH)
    return value, None if isinstance(value, _NEVER_BUILT_IN) else contents(value, _DEPTH)
