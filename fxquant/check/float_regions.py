"""The parts of a captured graph that are kept whole and in float, because they cannot be captured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import FunctionType

from torch import fx

from fxquant.check.observation import Place
from fxquant.check.user_frames import UserCode
from fxquant.ir.stages import CapturedModel


@dataclass(frozen=True)
class FloatRegion:
    """One part.

    Attributes:
        name: module path, or name of a function.
        module: whether it is a module.
        node: the graph's node that calls it.
        file, first_line, last_line: where the source of a function is.
    """

    name: str
    module: bool
    node: str
    file: str = ""
    first_line: int = 0
    last_line: int = 0

    def covers(self, place: Place) -> bool:
        """Whether what happens at ``place`` happens in this region."""
        if self.module:
            return place.module_path == self.name or place.module_path.startswith(f"{self.name}.")
        return place.file == self.file and self.first_line <= place.line <= self.last_line

    def __str__(self) -> str:
        return f"{'module' if self.module else 'function'} {self.name}"


def float_regions(graph: CapturedModel, user: UserCode) -> tuple[FloatRegion, ...]:
    """The regions of a graph: calls of the user's own modules and functions."""
    return tuple(_regions(graph.graph.nodes, graph, user))


def _regions(nodes: Iterable[fx.Node], graph: CapturedModel, user: UserCode) -> Iterable[FloatRegion]:
    for node in nodes:
        if node.op == "call_module":
            kind = type(graph.get_submodule(str(node.target)))
            if not kind.__module__.startswith(("torch.", "fxquant.")):
                yield FloatRegion(str(node.target), True, node.name)
        elif node.op == "call_function" and isinstance(node.target, FunctionType):
            code = node.target.__code__
            if user.owns(code.co_filename):
                lines = [line for _, _, line in code.co_lines() if line]
                yield FloatRegion(
                    node.target.__qualname__, False, node.name, code.co_filename, min(lines), max(lines)
                )


def covering(regions: Iterable[FloatRegion], place: Place) -> FloatRegion | None:
    """The region in which something happens, None when it is in none."""
    return next((region for region in regions if region.covers(place)), None)
