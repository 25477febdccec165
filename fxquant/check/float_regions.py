"""The parts of a captured graph that are kept whole and in float, because they cannot be captured."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from types import FunctionType

import torch
from torch import fx, nn

from fxquant.check.observation import Place
from fxquant.check.user_frames import UserCode
from fxquant.ir.checks import require_none, require_some, type_name
from fxquant.ir.float_part import FloatPart, PartCode
from fxquant.ir.stages import CapturedModel


@dataclass(frozen=True)
class FloatRegion:
    """One part.

    Attributes:
        title: what it is, for people: ``module gate``, ``lines 12-14 of Gate.forward``.
        node: the graph's node that calls it.
        module_path: path of a module that is kept whole; of a part of a function, module whose forward it belongs to.
        file, first_line, last_line: where the source of a part of a function is, "" and 0 for modules.
        gives_others: whether values decide what it gives: None, a tensor or a container; a graph has one of these.
    """

    title: str
    node: str
    module_path: str
    file: str = ""
    first_line: int = 0
    last_line: int = 0
    gives_others: bool = False

    def covers(self, place: Place) -> bool:
        """Whether what happens at ``place`` happens in this region."""
        if self.file:
            return place.file == self.file and self.first_line <= place.line <= self.last_line
        return place.module_path == self.module_path or place.module_path.startswith(f"{self.module_path}.")

    @property
    def is_plural(self) -> bool:
        """Whether the title names several lines."""
        return self.title.startswith("lines ")

    def __str__(self) -> str:
        return self.title


def float_regions(graph: CapturedModel, user: UserCode) -> tuple[FloatRegion, ...]:
    """The regions of a graph: parts that run as Python, and calls of the user's own modules and functions."""
    return tuple(_regions(graph, user))


def _regions(graph: CapturedModel, user: UserCode) -> Iterable[FloatRegion]:
    for node in graph.graph.nodes:
        if node.op == "call_module":
            module = graph.get_submodule(str(node.target))
            if isinstance(module, FloatPart):
                lines = module.first_line, module.last_line
                gives_others = not module.sizes_only and _gives_others(node, module)
                yield FloatRegion(module.title, node.name, module.module_path, module.file, *lines, gives_others)
            elif not type(module).__module__.startswith(("torch.", "fxquant.")) or _is_scripted(module):
                yield FloatRegion(f"module {node.target}", node.name, str(node.target))
        elif node.op == "call_function" and isinstance(node.target, FunctionType):
            code = node.target.__code__
            if user.owns(code):
                lines = _ends([line for _, _, line in code.co_lines() if line])
                yield FloatRegion(f"function {node.target.__qualname__}", node.name, "", code.co_filename, *lines)


def _gives_others(node: fx.Node, part: FloatPart) -> bool:
    """Whether a part gives None for the example and may give something else, or the other way round."""
    readers = [reader for user in node.users for reader in (user, *user.users)]
    if any(reader.target is require_none for reader in readers):
        return True
    code = part.code
    if not any(reader.target in (require_some, type_name) for reader in readers) or not isinstance(code, PartCode):
        return False
    nodes = list(ast.walk(ast.parse(code.source)))
    set_to = (item.value for item in nodes if isinstance(item, ast.Assign))
    if any(isinstance(value, ast.Constant) and value.value is None for value in set_to):
        return True
    returned = [item.value for item in nodes if isinstance(item, ast.Return)]
    return len({_kind(value) for value in returned if not isinstance(value, ast.IfExp)}) > 1


def _kind(value: ast.expr | None) -> str:
    """What an expression gives, as far as its syntax says so."""
    if isinstance(value, (ast.Tuple, ast.List, ast.Dict)):
        return type(value).__name__
    return "None" if value is None or (isinstance(value, ast.Constant) and value.value is None) else ""


def _ends(lines: list[int]) -> tuple[int, int]:
    """The first and the last of some lines."""
    return min(lines), max(lines)


def _is_scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def covering(regions: Iterable[FloatRegion], place: Place) -> FloatRegion | None:
    """The region in which something happens, None when it is in none."""
    return next((region for region in regions if region.covers(place)), None)
