"""Running a graph on tensors without data: what sizes other inputs would have, and what these answer.

Deep graphs compute the same shapes layer after layer. Tensors of one shape are one tensor here, and what an operation
makes of those it was given before is not computed again; nor is what a layer computes that is given what one before it
was given.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection, Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from fxquant.capture.layer_recording import RepeatedCall
from fxquant.capture.result_shapes import result_of
from fxquant.capture.structures import rebuild
from fxquant.ir.checks import CHECKS, require_same
from fxquant.ir.meta import writers_in

META = torch.device("meta")
_KEEP_SHAPE = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
_LITERALS = frozenset(
    (int, bool, str, type(None), type(...), torch.dtype, torch.device, torch.layout, torch.memory_format)
)
_SEQUENCES = frozenset((tuple, list, torch.Size))


class UnlikeAnyError(Exception):
    """What is given to an operation cannot be compared with what others were given."""


@dataclass(frozen=True)
class _Step:
    """What is computed at once.

    Attributes:
        nodes: in order.
        sources: of what they are computed.
        call: where they are those of a call of a layer that does what another one did.
    """

    nodes: list[fx.Node]
    sources: list[fx.Node]
    call: RepeatedCall | None = None


class MetaRun:
    """Runs of one graph.

    Args:
        root: the copy that was traced. graph: its graph.
        repeated: calls in it that do what others did, in order.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, repeated: Iterable[RepeatedCall] = ()) -> None:
        self._root = root
        self._repeats = not writers_in(graph)  # what is written into may get another shape
        self._every = _steps_of(list(graph.nodes), repeated if self._repeats else ())
        self._placeholders = graph.find_nodes(op="placeholder")
        self._tensors: dict[Hashable, Tensor] = {}
        self._own: set[int] = set()  # ids of those
        self._known: dict[Hashable, Any] = {}
        self._last_asked: list[fx.Node] = []
        self._steps: list[tuple[_Step, list[int]]] = []

    def answers(self, values: Iterable[Any], questions: Collection[fx.Node]) -> dict[fx.Node, bool]:
        """Which checks fail, by their nodes, of those that could be computed.

        What does not fit the sizes, or needs data, has no value, nor has what is computed from it.

        Args:
            values: of the placeholders, in order; their tensors without data.
            questions: the nodes that check.
        """
        env: dict[fx.Node, Any] = dict(zip(self._placeholders, map(self._shared, values), strict=True))
        for step, asked in self._steps_to(questions):
            if step.call is None:
                self._add(step.nodes[0], step.sources, env)
            else:
                self._add_call(step.call, asked, env)
        return {node: env[node] for node in questions if node in env}

    def _add(self, node: fx.Node, sources: list[fx.Node], env: dict[fx.Node, Any]) -> None:
        """Compute a node, where it has a value."""
        for source in sources:
            if source not in env:
                return
        with suppress(Exception):  # whatever operations raise for sizes that do not fit
            env[node] = self._value(node, env)

    def _add_call(self, call: RepeatedCall, asked: list[int], env: dict[fx.Node, Any]) -> None:
        """Compute those nodes of a call that are asked for: as those of another one that was given the same."""
        try:
            key = call.known, tuple([self._part(node, env) if node in env else None for node in call.inputs])
        except UnlikeAnyError:
            key = None
        if key is None or key not in self._known:
            for node in call.nodes:
                self._add(node, node.all_input_nodes, env)
            if key is not None:
                self._known[key] = {place: env[node] for place, node in enumerate(call.nodes) if node in env}
            return
        found = self._known[key]
        env.update((call.nodes[place], found[place]) for place in asked if place in found)

    def _steps_to(self, questions: Collection[fx.Node]) -> list[tuple[_Step, list[int]]]:
        """What these are computed from, and they themselves; and which nodes of each step others ask for."""
        if self._last_asked != list(questions):
            wanted, self._steps = set(questions), []
            for step in reversed(self._every):
                asked = [place for place, node in enumerate(step.nodes) if node in wanted]
                if asked:
                    wanted.update(step.sources)
                    self._steps.append((step, asked))
            self._steps.reverse()
            self._last_asked = list(questions)
        return self._steps

    def _value(self, node: fx.Node, env: Mapping[fx.Node, Any]) -> Any:
        """The value of a node; of a check, whether it fails."""
        try:
            key = self._key(node, env)
        except UnlikeAnyError:
            return self._shared(self._compute(node, env))
        if key not in self._known:
            self._known[key] = self._shared(self._compute(node, env))
        return self._known[key]

    def _compute(self, node: fx.Node, env: Mapping[fx.Node, Any]) -> Any:
        target: Any = node.target
        if node.op == "get_attr":
            return operator.attrgetter(target)(self._root)
        args, kwargs = _without_data(map_aggregate((node.args, node.kwargs), functools.partial(_given, env)))
        if target is require_same:
            return bool(args[0] is not args[1] and args[0] != args[1])
        if target in CHECKS:
            return None
        known = result_of(target, args, kwargs) if _is_of_torch(node) else None
        if known is not None:
            return known
        with META:  # only here: inside, torch takes long for every question about a tensor
            return self._call(node, args, kwargs)

    def _call(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        target: Any = node.target
        if node.op == "call_method":
            if target == "cpu" and isinstance(args[0], Tensor):
                return args[0]
            if target == "to":  # to a device that is named
                args = (args[0], *(META if isinstance(item, str) else item for item in args[1:]))
                kwargs = {**kwargs, "device": META} if "device" in kwargs else kwargs
            return getattr(args[0], target)(*args[1:], **kwargs)
        if node.op == "call_function":
            return target(*args, **kwargs)
        module = self._root.get_submodule(target)
        if isinstance(module, _KEEP_SHAPE):
            return args[0]
        tensors = {name: _meta(tensor) for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
        return torch.func.functional_call(module, tensors, args, kwargs)

    def _key(self, node: fx.Node, env: Mapping[fx.Node, Any]) -> Hashable:
        """What is equal for nodes that have the same value.

        Raises:
            UnlikeAnyError: the value is to be computed.
        """
        if not self._repeats:
            raise UnlikeAnyError
        if node.op == "get_attr":
            return node.target
        if not _is_of_torch(node):
            raise UnlikeAnyError
        args = tuple([self._part(item, env) for item in node.args])
        kwargs = tuple([(name, self._part(item, env)) for name, item in node.kwargs.items()]) if node.kwargs else ()
        return node.op, node.target, args, kwargs

    def _part(self, item: Any, env: Mapping[fx.Node, Any]) -> Hashable:
        value = env[item] if isinstance(item, fx.Node) else item
        kind = type(value)
        if kind is Tensor:
            if id(value) not in self._own:
                raise UnlikeAnyError
            return Tensor, id(value)
        if kind in _LITERALS:
            return kind, value
        if kind is float:
            return kind, value.hex()
        if kind in _SEQUENCES or issubclass(kind, fx.immutable_collections.immutable_list):
            return kind, tuple([self._part(each, env) for each in value])
        if kind is slice:
            return kind, tuple([self._part(each, env) for each in (value.start, value.stop, value.step)])
        raise UnlikeAnyError

    def _shared(self, value: Any) -> Any:
        return rebuild(value, self._one)

    def _one(self, leaf: Any) -> Any:
        """The one tensor without data that looks like another one."""
        leaf = _meta(leaf)
        if type(leaf) is not Tensor or leaf.layout is not torch.strided or not self._repeats:
            return leaf
        key = leaf.shape, leaf.stride(), leaf.dtype, leaf.storage_offset()
        found = self._tensors.setdefault(key, leaf)
        self._own.add(id(found))
        return found


def _steps_of(nodes: list[fx.Node], repeated: Iterable[RepeatedCall]) -> list[_Step]:
    """The nodes of a graph but for its placeholders: those of repeated calls at once, as far as they lie together."""
    calls = {call.nodes[0]: call for call in repeated if call.nodes}
    steps, place = list[_Step](), 0
    while place < len(nodes):
        node = nodes[place]
        call = calls.get(node)
        if call is not None and nodes[place : place + len(call.nodes)] == call.nodes:
            steps.append(_Step(call.nodes, call.inputs, call))
            place += len(call.nodes)
            continue
        if node.op != "placeholder":
            steps.append(_Step([node], node.all_input_nodes))
        place += 1
    return steps


def _is_of_torch(node: fx.Node) -> bool:
    """Whether a node calls a method, an operator, or a function of torch's: one that computes, and no more."""
    target: Any = node.target
    if node.op not in ("call_function", "call_method"):
        return False
    if isinstance(target, str) or type(target) is BuiltinFunctionType:
        return True
    return isinstance(target, FunctionType) and target.__module__.startswith("torch.")


def _given(env: Mapping[fx.Node, Any], item: Any) -> Any:
    """What stands for an operand, or for a part of one."""
    if isinstance(item, fx.Node):
        return env[item]
    return META if isinstance(item, torch.device) else item


def _without_data(structure: Any) -> Any:
    return rebuild(structure, _meta)


def _meta(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.device != META:
        return torch.empty_like(leaf, device=META)
    return leaf
