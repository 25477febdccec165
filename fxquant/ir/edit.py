"""Small edits of graphs and module trees that passes share."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.ir.graph import Graph
from fxquant.ir.meta import info, set_info


def copy_graph(
    graph: fx.Graph, keep: Callable[[fx.Node], bool] = lambda node: True
) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """Copy the nodes to keep with names and infos; returns the copy and old node to new node."""
    new = Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    for node in filter(keep, graph.nodes):
        made = new.node_copy(node, lambda old: mapping[old])
        set_info(made, info(node))
        mapping[node] = made
    return new, mapping


def set_arguments(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """``node.args, node.kwargs = args, kwargs`` in one step, without a search of tables, which go by other things."""
    node._update_args_kwargs(args, kwargs)


def set_call(node: fx.Node, target: Callable[..., Any] | str) -> None:
    """Let a node call a function or, by its name, a method; a graph's tables go by both, and are searched once."""
    op = "call_method" if isinstance(target, str) else "call_function"
    if node.op == op and node.target is target:
        return
    nodes = node.graph._find_nodes_lookup_table
    nodes.remove(node)
    object.__setattr__(node, "op", op)
    object.__setattr__(node, "target", target)
    nodes.insert(node)


def nodes_after(last: fx.Node) -> list[fx.Node]:
    """The nodes of a graph behind one of them."""
    found, node = [], last._next
    while node.op != "root":
        found.append(node)
        node = node._next
    return found


def erase_after(graph: fx.Graph, last: fx.Node) -> None:
    """Take back the nodes behind one of them, but those that read attributes: each of these is made once for all."""
    for node in reversed(nodes_after(last)):
        if node.op != "get_attr":
            graph.erase_node(node)


def output_node(graph: fx.Graph) -> fx.Node:
    """The output node."""
    return graph.output_node()


def set_tensor(root: nn.Module, path: str, tensor: Tensor) -> None:
    """Register ``tensor`` as a buffer of ``root`` at a dotted path, making containers on the way."""
    *prefix, name = path.split(".")
    module = root
    for part in prefix:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        child = module._modules[part]
        assert child is not None, path
        module = child
    module.register_buffer(name, tensor)


def put_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Place ``module`` at a dotted path. Modules on the way are copied shallowly: others that hold them keep theirs."""
    *prefix, name = path.split(".")
    for part in prefix:
        child = root._modules.get(part)
        root._modules[part] = nn.Module() if child is None else holder_of(child)
        root = root.get_submodule(part)
    root._modules[name] = module


def adopt(root: nn.Module, path: str, source: nn.Module) -> None:
    """Let ``root`` have the parameter, buffer or module that ``source`` has at a dotted path, unless it has one there.

    Modules on the way are copied shallowly, as in ``put_module``. Where ``root`` has only tensors of a module, it gets
    the module with these tensors.
    """
    *prefix, name = path.split(".")
    for part in prefix:
        child = root._modules.get(part)
        root._modules[part] = nn.Module() if child is None else holder_of(child)
        root, source = root.get_submodule(part), source.get_submodule(part)
    for kind in ("_parameters", "_buffers", "_modules"):
        if name in vars(source)[kind]:
            vars(root)[kind][name] = _with_tensors_of(vars(root)[kind].get(name), vars(source)[kind][name])


def _with_tensors_of(known: Any, found: Any) -> Any:
    """What is known already; where that is only a holder of tensors, the module that is found, with these."""
    if type(known) is not nn.Module or type(found) is nn.Module:
        return found if known is None else known
    made = copy.copy(found)
    for kind in ("_parameters", "_buffers"):
        vars(made)[kind] = {**vars(found)[kind], **vars(known)[kind]}
    children = {name: _with_tensors_of(known._modules.get(name), child) for name, child in found._modules.items()}
    vars(made)["_modules"] = children
    return made


def get_tensor(root: nn.Module, path: str) -> Tensor:
    """Fetch a tensor at a dotted path."""
    found = get_value(root, path)
    assert isinstance(found, Tensor), path
    return found


def get_value(root: nn.Module, path: str) -> Any:
    """Fetch whatever is at a dotted path."""
    return operator.attrgetter(path)(root)


def holder_of(model: nn.Module, preserved: tuple[str, ...] = ()) -> nn.Module:
    """A plain module with the same children, parameters, buffers and preserved attributes; more can be added."""
    holder = nn.Module()
    holder._modules.update(model._modules)
    holder._parameters.update(model._parameters)
    holder._buffers.update(model._buffers)
    holder._non_persistent_buffers_set.update(model._non_persistent_buffers_set)
    for key, value in vars(model).items():
        if (isinstance(value, Tensor) or key in preserved) and key not in holder.__dict__:
            holder.__dict__[key] = value
    return holder


def evaluate_constant(node: fx.Node, root: nn.Module) -> Tensor:
    """Compute the value of a node that depends on parameters and buffers only, in float32 on the CPU."""
    with torch.inference_mode(False), torch.no_grad():
        value = _evaluate(node, root)
    assert isinstance(value, Tensor), node.name
    return value.detach()


def _evaluate(node: fx.Node, root: nn.Module) -> Any:
    if node.op == "get_attr":
        return get_tensor(root, str(node.target))
    args: Any = fx.node.map_arg(node.args, lambda source: _evaluate(source, root))  # tuples stay tuples: w[:, 0]
    kwargs: Any = fx.node.map_arg(node.kwargs, lambda source: _evaluate(source, root))
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)
