"""Whether a graph is well-formed: what ``fx.Graph.lint`` looks at, each module looked up once."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

_OPS = frozenset(("placeholder", "get_attr", "call_function", "call_method", "call_module", "output"))


def check_graph(model: fx.GraphModule) -> str:
    """What is wrong with the graph of ``model``, "" for nothing."""
    graph = model.graph
    seen, names = set[fx.Node](), set[str]()
    for node in graph.nodes:
        if node.op not in _OPS:
            return f"node {node} has the unknown opcode {node.op}"
        if node.graph is not graph or node not in graph._find_nodes_lookup_table:
            return f"node {node} belongs to another graph"
        for source in node.all_input_nodes:
            if source not in seen:
                return f"node {source} is used by {node} and is not defined before it"
        if node.name in names:
            return f"two nodes are called {node.name}"
        if not (callable(node.target) if node.op == "call_function" else isinstance(node.target, str)):
            return f"the target {node.target!r} of node {node} is of type {type(node.target).__name__}"
        seen.add(node)
        names.add(node.name)
    return _check_targets(model)


def _check_targets(model: fx.GraphModule) -> str:
    """Modules that are called, and attributes that are read, which are not there."""
    modules: dict[str, Any] = {"": model}
    for node in model.graph.nodes:
        if node.op not in ("get_attr", "call_module"):
            continue
        path = str(node.target)
        found = _at(path, modules)
        if found is None or (node.op == "call_module" and not isinstance(found, nn.Module)):
            return f"node {node} refers to {path}, which is no {'module' if node.op == 'call_module' else 'attribute'}"
    return ""


def _at(path: str, modules: dict[str, Any]) -> Any:
    """What is at a path; ``modules`` gets what it goes through."""
    if path in modules:
        return modules[path]
    owner, _, name = path.rpartition(".")
    around = _at(owner, modules)
    inside = around._modules.get(name) if isinstance(around, nn.Module) else None
    modules[path] = found = getattr(around, name, None) if inside is None else inside
    return found
