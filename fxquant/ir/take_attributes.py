"""What the nodes of a graph refer to, put on the module that gets the graph.

``fx.GraphModule`` does the same when it is made, walking down from the root anew for every node.
"""

from __future__ import annotations

from torch import Tensor, fx, nn

_Homes = dict[str, tuple[nn.Module, nn.Module]]  # by path: (module of the one, module of the other)


def take_attributes(made: nn.Module, root: nn.Module, graph: fx.Graph) -> None:
    """Give ``made`` the modules, parameters and buffers of ``root`` that ``graph`` refers to, at the same paths."""
    homes: _Homes = {"": (root, made)}
    for path in dict.fromkeys(str(node.target) for node in graph.nodes if node.op in ("get_attr", "call_module")):
        owner, _, name = path.rpartition(".")
        source, target = _home(owner, homes)
        if source is not target:  # else a module around it was taken as a whole
            _put(target, name, getattr(source, name), target is made)


def _home(path: str, homes: _Homes) -> tuple[nn.Module, nn.Module]:
    """The modules at a path; the one is made where it is not there yet."""
    if path not in homes:
        owner, _, name = path.rpartition(".")
        source, target = _home(owner, homes)
        inside, known = source._modules.get(name), target._modules.get(name)
        if known is None:
            known = nn.Module()
            target.add_module(name, known)
        homes[path] = getattr(source, name) if inside is None else inside, known
    return homes[path]


def _put(target: nn.Module, name: str, value: object, has_more: bool) -> None:
    if isinstance(value, nn.Parameter) and not has_more:
        target._parameters[name] = value
    elif isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        target.register_buffer(name, value)
    else:
        setattr(target, name, value)
