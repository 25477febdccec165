"""Where a graph first parts from eager: the node, and the user's line it came from.

Two ways. Captured anew on the inputs in question, the model gives a graph that is right for them: the first node that
is not the same in both is the one that has the example built in. Where that graph is no better, the values are compared
with those that eager computes on the same lines.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from fxquant.capture.inputs import bind_inputs
from fxquant.check.compare import Outcome, compare
from fxquant.check.probes import fresh
from fxquant.check.run_model import call, gradient_mode, seed_all
from fxquant.check.user_frames import Places
from fxquant.ir.meta import info
from fxquant.ir.stages import CapturedModel

_CLOSE = 1e-5


@dataclass(frozen=True)
class Divergence:
    """A node of the graph that is not what eager does.

    Attributes:
        node: its name, "" when none was found.
        file, line: the user's line it came from.
        module_path: module whose forward made it.
    """

    node: str = ""
    file: str = ""
    line: int = 0
    module_path: str = ""

    @staticmethod
    def at(node: fx.Node) -> Divergence:
        """At a node."""
        origin = info(node).origin
        return Divergence(node.name, origin.file, origin.line, origin.module_path)

    def __str__(self) -> str:
        return f"{self.node} ({os.path.basename(self.file)}:{self.line})" if self.file else self.node


def first_difference(graph: CapturedModel, other: CapturedModel) -> Divergence | None:
    """The first node that is not the same in two captures of one model; None when all are."""
    numbers: dict[fx.Node, int] = {}
    first, second = list(graph.graph.nodes), list(other.graph.nodes)
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        numbers[left] = numbers[right] = index
        if _signature(left, numbers) != _signature(right, numbers) or not _same_attribute(left, graph, other):
            return Divergence.at(left if info(left).origin.file else right)
    if len(first) != len(second):
        longer = first if len(first) > len(second) else second
        return Divergence.at(longer[min(len(first), len(second))])
    return None


def first_wrong_value(graph: CapturedModel, model: nn.Module, inputs: Any, places: Places) -> Divergence | None:
    """The first node whose value eager does not compute on the same line, or that raises; None when all are right.

    Args:
        graph: the captured graph, a copy that may change.
        model: the user's model, a copy that may change.
        inputs: in the form of the example inputs.
        places: turns frames into places.
    """
    recorder = _EagerValues(places)
    with recorder:
        call(model, inputs)
    player = _Player(graph, recorder.values)
    values = [value for _, _, value in bind_inputs(model, fresh(inputs)).entries]
    seed_all()
    with gradient_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            player.run(*values)
        except Exception:
            return player.found or (Divergence.at(player.current) if player.current is not None else None)
    return player.found


Values = dict[tuple[str, int], list[tuple[Any, ...]]]


class _EagerValues(TorchFunctionMode):
    """Summaries of all tensors that a model computes, by the user's line."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self.values: Values = defaultdict(list)
        self._places = places

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function and note what it returned."""
        result = func(*args, **(kwargs or {}))
        frame = self._places.user.frame(sys._getframe(1))
        if frame is not None:
            place = frame.f_code.co_filename, frame.f_lineno
            items = result if isinstance(result, (tuple, list)) else (result,)
            self.values[place] += [_summary(item) for item in items if isinstance(item, Tensor)]
        return result


class _Player(fx.Interpreter):
    """Runs a graph node by node and looks for the first value that eager did not have on that line."""

    def __init__(self, graph: CapturedModel, values: Values) -> None:
        super().__init__(graph)
        self.values = values
        self.found: Divergence | None = None
        self.current: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        self.current = n
        value = super().run_node(n)
        origin = info(n).origin
        known = self.values.get((origin.file, origin.line))
        if self.found is None and known and isinstance(value, Tensor) and n.op.startswith("call"):
            summary = _summary(value)
            if not any(_alike(summary, other) for other in known):
                self.found = Divergence.at(n)
        return value


def _summary(tensor: Tensor) -> tuple[Any, ...]:
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_complex():
        return (tuple(tensor.shape),)
    numbers = tensor.detach().double().nan_to_num()
    return tuple(tensor.shape), float(numbers.sum()), float(numbers.abs().sum())


def _alike(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    if first[0] != second[0] or len(first) != len(second):
        return False
    return all(abs(a - b) <= _CLOSE * (1 + first[2]) for a, b in zip(first[1:], second[1:], strict=True))


def _signature(node: fx.Node, numbers: dict[fx.Node, int]) -> Any:
    arguments = fx.node.map_arg((node.args, dict(node.kwargs)), lambda arg: f"%{numbers.get(arg, -1)}")
    return node.op, node.target, repr(arguments)


def _same_attribute(node: fx.Node, graph: CapturedModel, other: CapturedModel) -> bool:
    if node.op != "get_attr":
        return True
    first, second = _attribute(graph, str(node.target)), _attribute(other, str(node.target))
    return compare(first, second).outcome is Outcome.EXACT


def _attribute(model: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(model.get_submodule(owner), name, None)
