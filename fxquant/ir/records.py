"""Graphs as plain records: what is pickled, and what explanations of earlier stages are made from."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fxquant.errors import FxquantError
from fxquant.ir.graph import Graph
from fxquant.ir.meta import NodeInfo, info, set_info


@dataclass(frozen=True)
class NodeRef:
    """Stands for a node inside recorded arguments."""

    name: str


@dataclass(frozen=True)
class TorchOp:
    """A torch operator overload by name; the objects themselves do not pickle."""

    path: str


@dataclass(frozen=True)
class NamedFunction:
    """A function that pickles only by the name under which a module holds it."""

    module: str
    name: str


@dataclass(frozen=True)
class MemoryFormat:
    """A ``torch.memory_format`` by name; the objects do not pickle in the protocol of ``torch.save``."""

    name: str


@dataclass(frozen=True)
class NodeRecord:
    """One node: its fx fields, arguments with ``NodeRef`` for nodes, and its info."""

    name: str
    op: str
    target: Any
    args: Any
    kwargs: Any
    info: NodeInfo

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the nodes it reads."""
        found: list[str] = []
        _map((self.args, self.kwargs), lambda item: found.append(item.name) if isinstance(item, NodeRef) else None)
        return tuple(found)


def from_graph(graph: fx.Graph) -> tuple[NodeRecord, ...]:
    """Record every node of ``graph`` in order."""
    references = {node: NodeRef(node.name) for node in graph.nodes}
    targets = {node.target: pack_target(node.target) for node in graph.nodes}

    def pack(item: Any) -> Any:
        return references[item] if isinstance(item, fx.Node) else pack_constant(item)

    return tuple(
        [
            NodeRecord(
                node.name,
                node.op,
                targets[node.target],
                _map(node.args, pack) if node.args else (),
                _map(dict(node.kwargs), pack) if node.kwargs else {},
                info(node),
            )
            for node in graph.nodes
        ]
    )


def to_graph(nodes: tuple[NodeRecord, ...]) -> fx.Graph:
    """Rebuild a graph from its records, names included."""
    graph = Graph()
    made: dict[str, fx.Node] = {}

    def unpack(item: Any) -> Any:
        return made[item.name] if isinstance(item, NodeRef) else unpack_constant(item)

    for record in nodes:
        target = unpack_target(record.target)
        args, kwargs = _map(record.args, unpack), _map(record.kwargs, unpack)
        node = graph.create_node(record.op, target, args, kwargs, record.name)
        set_info(node, record.info)
        made[record.name] = node
    return graph


def pack_constant(value: Any) -> Any:
    """What stands for an argument that does not pickle; the argument itself where it does."""
    is_format = isinstance(value, torch.memory_format)
    return MemoryFormat(str(value).removeprefix("torch.")) if is_format else value


def unpack_constant(value: Any) -> Any:
    """Inverse of ``pack_constant``.

    Raises:
        FxquantError: a damaged file names what is no memory format.
    """
    if not isinstance(value, MemoryFormat):
        return value
    found = getattr(torch, value.name, None)
    if not isinstance(found, torch.memory_format):
        raise FxquantError(f"{value.name!r} is no memory format of torch", remedy="save the model again")
    return found


def pack_target(target: Any) -> Any:
    if isinstance(target, torch._ops.OpOverload):
        return TorchOp(f"{target.namespace}.{target._schema.name.split('::')[1]}.{target._overloadname}")
    name = getattr(target, "__name__", "")
    for home in (F, torch) if callable(target) else ():
        if getattr(home, name, None) is target and "<locals>" in getattr(target, "__qualname__", ""):
            return NamedFunction(home.__name__, name)
    return target


def unpack_target(target: Any) -> Any:
    if isinstance(target, TorchOp):
        found: Any = torch.ops
        for part in target.path.split("."):
            found = getattr(found, part)
        return found
    if isinstance(target, NamedFunction):
        return getattr(importlib.import_module(target.module), target.name)
    return target


_LEAVES = frozenset((fx.Node, NodeRef, int, float, bool, str, type(None)))  # most that nodes are given


def _map(structure: Any, at_leaf: Callable[[Any], Any]) -> Any:
    """Rebuild lists, tuples, dicts and slices as plain ones with every leaf mapped."""
    if type(structure) in _LEAVES:
        return at_leaf(structure)
    if isinstance(structure, tuple):
        items = [_map(item, at_leaf) for item in structure]
        return type(structure)(*items) if hasattr(structure, "_fields") else tuple(items)
    if isinstance(structure, list):
        return [_map(item, at_leaf) for item in structure]
    if isinstance(structure, dict):
        return {key: _map(item, at_leaf) for key, item in structure.items()}
    if isinstance(structure, slice):
        return slice(*(_map(part, at_leaf) for part in (structure.start, structure.stop, structure.step)))
    return at_leaf(structure)
