"""What a call of a layer left, made ready to be done many times: every operand is at a place in a list.

The list holds what the layer is given, constants, and what each step makes; one list holds nodes, and another one their
values.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg

from fxquant.capture.layer_recording import LayerRecording, Place
from fxquant.ir.float_part import FloatPart
from fxquant.ir.meta import InfoAgain, NodeInfo, Origin, TensorMeta, info

Take = Callable[[list[Any]], Any]
# Operations whose result has the elements of their first operand, where it has as many.
_METHODS = frozenset(
    ("view", "reshape", "transpose", "permute", "contiguous", "flatten", "unflatten", "unsqueeze", "squeeze", "t",
     "swapaxes", "swapdims", "movedim", "detach", "clone", "float")
)  # fmt: skip
_FUNCTIONS = frozenset(getattr(torch, name) for name in _METHODS if name != "float" and hasattr(torch, name))
_SAME_ELEMENTS = _METHODS | _FUNCTIONS


@dataclass(frozen=True)
class Step:
    """One node of a recording.

    Attributes:
        op, call: of the node as recorded; what it calls is a path where it reads an attribute or calls a module.
        known: what is known of the node. describes: attaches it to others that do the same.
        part: that it calls, None for anything else.
        path: place of the path of its module. target: place of the path that it calls or reads, -1 where it is none.
        args, keywords, kwargs: take its operands from a list; names of the last of them.
        changes: places of the nodes whose values it changes.
        named: whether it is named after its module.
    """

    op: str
    call: Any
    known: NodeInfo
    describes: InfoAgain
    part: FloatPart | None
    path: int
    target: int
    args: Take
    keywords: tuple[str, ...]
    kwargs: Take
    changes: tuple[int, ...]
    named: bool


@dataclass(frozen=True)
class Batch:
    """Values whose largest magnitudes are found in one step, before something is written into one of them.

    Attributes:
        places: of those that are searched.
        which: for each step, the index of what has the same elements among them; -1 for what is not searched.
    """

    places: list[int]
    which: list[int]


class LayerSteps:
    """The steps of one recording.

    Args:
        known: the recording.
        module_at: gives the module of the model at a path.

    Attributes:
        places: where what a node stands for is in a list.
        constants: behind what the layer is given.
        behind: how many there are of both.
        steps: in order, what they make behind the constants.
        batches: of what the steps make; the first of all up to the first step that writes, and so on.
    """

    def __init__(self, known: LayerRecording, module_at: Callable[[str], nn.Module]) -> None:
        self.places = {node: index for index, node in enumerate(known.inputs)}
        self._place, self._module_at, self._parts = known.place, module_at, known.parts
        self._paths: dict[str, int] = {}
        self.constants = [item for node in known.nodes for item in _operands(node) if _is_constant(item)]
        self._constants = {id(item): len(known.inputs) + index for index, item in enumerate(self.constants)}
        self.behind = len(known.inputs) + len(self.constants)
        self.batches = [Batch([], [])]
        self._by_name = {node.name: node for node in known.inputs}
        self.steps: list[Step] = []
        for node in known.nodes:
            for source in node.all_input_nodes:
                if source not in self.places:  # a parameter or buffer that a layer before it read
                    self._add(source)
            self._add(node)

    def paths_at(self, place: Place) -> list[str]:
        """The paths that steps name by their places, as they are for another call."""
        return [self._place.moved(path, place) for path in self._paths]

    def _add(self, node: fx.Node) -> None:
        known = info(node)
        is_path = node.op in ("get_attr", "call_module")
        changed = [self._by_name[name] for name in known.mutates if name in self._by_name]
        step = Step(
            node.op,
            node.target,
            known,
            InfoAgain(known),
            self._parts.get(str(node.target)) if node.op == "call_module" else None,
            self._path(known.origin.module_path),
            self._path(str(node.target)) if is_path else -1,
            self._taking(node.args),
            tuple(node.kwargs),
            self._taking(tuple(node.kwargs.values())),
            tuple(self.places[item] for item in changed),
            self._is_named(node, known.origin),
        )
        if step.changes:
            self.batches.append(Batch([], []))
        self._add_to_batch(node)
        self.places[node], self._by_name[node.name] = self.behind + len(self.steps), node
        self.steps.append(step)

    def _add_to_batch(self, node: fx.Node) -> None:
        batch, source, place = self.batches[-1], self._elements(node), self.behind + len(self.steps)
        if node.op == "get_attr":
            batch.which.append(-1)
            return
        begin = place - len(batch.which)
        known = batch.which[source - begin] if source >= begin else -1
        if known < 0:
            batch.places.append(place)
        batch.which.append(known if known >= 0 else len(batch.places) - 1)

    def _is_named(self, node: fx.Node, origin: Origin) -> bool:
        """Whether a node is an operation of a simple torch.nn module, which are named after it."""
        own = origin.from_torch_module and node.op != "call_module" and bool(origin.module_path)
        return own and not self._module_at(origin.module_path)._modules

    def _path(self, path: str) -> int:
        return self._paths.setdefault(path, len(self._paths))

    def _elements(self, node: fx.Node) -> int:
        """The place of what has the same elements as the value of a node."""
        source = node.args[0] if node.args else None
        if node.op not in ("call_function", "call_method") or not isinstance(source, fx.Node):
            return -1
        made, given = info(node).tensor, info(source).tensor
        if made is None or given is None or node.target not in _SAME_ELEMENTS:
            return -1
        return self.places[source] if made.dtype == given.dtype and _size(made) == _size(given) else -1

    def _taking(self, items: tuple[Any, ...]) -> Take:
        """What takes operands from a list."""
        places = list(map(self._at, items))
        if len(places) > 1 and None not in places:
            return operator.itemgetter(*places)
        parts = [self._part(item) for item in items]
        return lambda held: tuple([part(held) for part in parts])

    def _at(self, item: Any) -> int | None:
        """The place of an operand; None for containers."""
        return self.places[item] if isinstance(item, fx.Node) else self._constants.get(id(item))

    def _part(self, item: Any) -> Take:
        place = self._at(item)
        if place is not None:
            return operator.itemgetter(place)
        if type(item) is tuple:
            return self._taking(item)
        places = self.places
        return lambda held: map_arg(item, lambda node: held[places[node]])


def _operands(node: fx.Node) -> tuple[Any, ...]:
    return (*node.args, *node.kwargs.values())


def _is_constant(item: Any) -> bool:
    """Whether an operand is, or holds, no value of the graph, and cannot change."""
    if type(item) is tuple:
        return all(map(_is_constant, item))
    return not isinstance(item, (fx.Node, list, dict, slice))


def _size(meta: TensorMeta) -> int:
    return math.prod(meta.shape)
