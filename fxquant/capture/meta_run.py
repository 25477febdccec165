"""Running a graph on tensors without data: what sizes other inputs would have, and what these answer.

Deep graphs compute the same shapes layer after layer. Tensors of one shape are one tensor here, and what an operation
makes of those it was given before is not computed again.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Hashable, Iterable, Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

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


class MetaRun:
    """Runs of one graph.

    Args:
        root: the copy that was traced. graph: its graph.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        self._root = root
        self._nodes = [(node, node.all_input_nodes) for node in graph.nodes]
        self._placeholders = graph.find_nodes(op="placeholder")
        self._repeats = not writers_in(graph)  # what is written into may get another shape
        self._tensors: dict[Hashable, Tensor] = {}
        self._own: set[int] = set()  # ids of those
        self._known: dict[Hashable, Any] = {}
        self._last_asked: list[fx.Node] = []
        self._steps: list[tuple[fx.Node, list[fx.Node]]] = []

    def answers(self, values: Iterable[Any], questions: Collection[fx.Node]) -> dict[fx.Node, bool]:
        """Which checks fail, by their nodes, of those that could be computed.

        What does not fit the sizes, or needs data, has no value, nor has what is computed from it.

        Args:
            values: of the placeholders, in order; their tensors without data.
            questions: the nodes that check.
        """
        env: dict[fx.Node, Any] = dict(zip(self._placeholders, map(self._shared, values), strict=True))
        for node, sources in self._steps_to(questions):
            for source in sources:
                if source not in env:
                    break
            else:
                try:
                    env[node] = self._value(node, env)
                except Exception:  # whatever operations raise for sizes that do not fit
                    continue
        return {node: env[node] for node in questions if node in env}

    def _steps_to(self, questions: Collection[fx.Node]) -> list[tuple[fx.Node, list[fx.Node]]]:
        """What these are computed from, and they themselves, but for the placeholders."""
        if self._last_asked != list(questions):
            wanted = set(questions)
            for node, sources in reversed(self._nodes):
                if node in wanted:
                    wanted.update(sources)
            self._steps = [step for step in self._nodes if step[0] in wanted and step[0].op != "placeholder"]
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
        args, kwargs = _without_data(fx.node.map_arg((node.args, node.kwargs), env.__getitem__))
        if target is require_same:
            return bool(args[0] is not args[1] and args[0] != args[1])
        if target in CHECKS:
            return None
        with META:  # only here: inside, torch takes long for every question about a tensor
            return self._call(node, args, kwargs)

    def _call(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        target: Any = node.target
        if node.op == "call_method":
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
        if node.op not in ("call_function", "call_method") or not _is_torchs(node.target):
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


def _is_torchs(target: Any) -> bool:
    """Whether a target is a method, an operator, or a function of torch's: one that computes, and no more."""
    if isinstance(target, str) or type(target) is BuiltinFunctionType:
        return True
    return isinstance(target, FunctionType) and target.__module__.startswith("torch.")


def _without_data(structure: Any) -> Any:
    return rebuild(structure, _meta)


def _meta(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf if leaf.device == META else torch.empty_like(leaf, device=META)
    return META if isinstance(leaf, torch.device) else leaf
