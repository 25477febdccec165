"""Parameters and buffers that forward writes into: the graph updates buffers; parameters are its constants."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from fxquant.capture.attribute_writes import RENORMALIZING
from fxquant.capture.facts import Fact, FactKind
from fxquant.capture.keep_state import Change
from fxquant.capture.trouble import Trouble, spots_around
from fxquant.ir.ancestors import with_ancestors
from fxquant.ir.meta import Origin, by_storage, info

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer


def changed_parameters(root: nn.Module, changes: list[Change], tracer: ValueTracer) -> list[Trouble]:
    """Writes to parameters; a graph takes these for constants. Writes to buffers are written down."""
    if not any(change.tensor for change in changes):
        return []
    written, shortened = _written_attributes(tracer), _renormalized(root, tracer.graph)
    troubles = []
    for change in changes:
        path = f"{change.module_path}.{change.name}".lstrip(".")
        is_parameter = change.name in root.get_submodule(change.module_path)._parameters
        if not change.tensor or not (path in written or (is_parameter and path not in shortened)):
            continue
        origin = written.get(path, Origin())  # of a part that runs as Python it is not known
        place = (origin.file, origin.line, origin.code)
        if is_parameter:
            fact = Fact(FactKind.BUFFER_UPDATE, *place, origin.module_path, "", f"parameter {path}")
            around = _around_both(change.module_path, origin.module_path) if path in written else ""
            troubles.append(Trouble(fact, spots_around(around)))
        else:
            handled = "the graph updates the buffer"
            fact = Fact(FactKind.BUFFER_UPDATE, *place, change.module_path, "", change.name, handled)
            tracer.recorder.facts[fact] = None
    return troubles


def _renormalized(root: nn.Module, graph: fx.Graph) -> set[str]:
    """Tables whose rows embeddings shorten to ``max_norm``, as they do in a graph."""
    found = set[str]()
    for node in graph.nodes:
        if node.target in RENORMALIZING and (len(node.args) > 3 or node.kwargs.get("max_norm") is not None):
            found.update(str(source.target) for source in node.all_input_nodes if source.op == "get_attr")
        elif node.op == "call_module" and getattr(root.get_submodule(str(node.target)), "max_norm", None) is not None:
            found.add(f"{node.target}.weight")
    return found


def _around_both(first: str, second: str) -> str:
    """Path of the innermost module that holds both."""
    pairs = zip(first.split("."), second.split("."), strict=False)
    return ".".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def asked_of_written(tracer: ValueTracer, changing: Collection[str]) -> list[Trouble]:
    """Answers that were built in although the graph itself writes into the buffer that gave them, or it is trained."""
    if not tracer.answers.of_state:
        return []
    parameters = tracer.root.named_parameters() if tracer.settings.trains else ()
    trained = [name for name, item in parameters if item.requires_grad]
    written, troubles = {*_written_attributes(tracer), *trained, *changing}, []
    for fact, node, spots in tracer.answers.of_state:
        if any(item.op == "get_attr" and str(item.target) in written for item in with_ancestors([node])):
            tracer.recorder.facts.pop(fact, None)
            troubles.append(Trouble(fact, spots))
    return troubles


def _written_attributes(tracer: ValueTracer) -> dict[str, Any]:
    """Origin of the node that writes into each parameter and buffer that the graph writes into, by path."""
    by_name = {node.name: node for node in tracer.graph.nodes}
    paths = {
        storage: str(node.target)
        for storage, nodes in by_storage(tracer.graph).items()
        for node in nodes
        if node.op == "get_attr"
    }
    found = {}
    for node in tracer.graph.nodes:
        for name in info(node).mutates:
            target = by_name.get(name)
            if target is not None and target.op == "get_attr":
                found[str(target.target)] = info(node).origin
            elif target is not None and info(target).storage in paths:  # a view of it, or ``p.data``
                found[paths[info(target).storage]] = info(node).origin
    return found
