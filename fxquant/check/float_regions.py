"""The parts of a captured graph that are kept whole and in float, because they cannot be captured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import FunctionType

import torch
from torch import nn

from fxquant.check.observation import Place
from fxquant.check.user_frames import UserCode
from fxquant.ir.float_part import FloatPart
from fxquant.ir.stages import CapturedModel


@dataclass(frozen=True)
class FloatRegion:
    """One part.

    Attributes:
        title: what it is, for people: ``module gate``, ``lines 12-14 of Gate.forward``.
        node: the graph's node that calls it.
        module_path: path of a module that is kept whole; of a part of a function, module whose forward it belongs to.
        file, first_line, last_line: where the source of a part of a function is, "" and 0 for modules.
    """

    title: str
    node: str
    module_path: str
    file: str = ""
    first_line: int = 0
    last_line: int = 0

    def covers(self, place: Place) -> bool:
        """Whether what happens at ``place`` happens in this region."""
        if self.file:
            return place.file == self.file and self.first_line <= place.line <= self.last_line
        return place.module_path == self.module_path or place.module_path.startswith(f"{self.module_path}.")

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
                yield FloatRegion(module.title, node.name, module.module_path, module.file, *lines)
            elif not type(module).__module__.startswith(("torch.", "fxquant.")) or _is_scripted(module):
                yield FloatRegion(f"module {node.target}", node.name, str(node.target))
        elif node.op == "call_function" and isinstance(node.target, FunctionType):
            code = node.target.__code__
            if user.owns(code):
                lines = _ends([line for _, _, line in code.co_lines() if line])
                yield FloatRegion(f"function {node.target.__qualname__}", node.name, "", code.co_filename, *lines)


def _ends(lines: list[int]) -> tuple[int, int]:
    """The first and the last of some lines."""
    return min(lines), max(lines)


def _is_scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def covering(regions: Iterable[FloatRegion], place: Place) -> FloatRegion | None:
    """The region in which something happens, None when it is in none."""
    return next((region for region in regions if region.covers(place)), None)
