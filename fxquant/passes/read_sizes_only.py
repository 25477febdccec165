"""Let tensors that only take the shape and device of another one read nothing else of it.

Before::

    %z = new_zeros(%x, (2, 3));  %w = full_like(%x, 1.0);  %v = new_tensor(%x, [1.0, 2.0])

After::

    %d = getattr(%x, "device");  %z = zeros((2, 3), dtype=torch.float32, device=%d)
    %s = getattr(%x, "shape");   %w = full(%s, 1.0, dtype=torch.float32, device=%d)
    %v = tensor([1.0, 2.0], dtype=torch.float32, device=%d)

The numbers of an int8 tensor need not be computed for that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxquant.ir.meta import ALIASED, NodeInfo, changed_info, info, set_info

MADE_BY = "read_sizes_only"
_FACTORIES = {"zeros": torch.zeros, "ones": torch.ones, "empty": torch.empty, "full": torch.full}
_METHODS = {f"new_{name}": factory for name, factory in _FACTORIES.items()}
_FUNCTIONS = {getattr(torch, f"{name}_like"): factory for name, factory in _FACTORIES.items()}
_KEYWORDS = frozenset(("dtype", "device", "fill_value"))


def read_sizes_only(graph: fx.Graph) -> None:
    """Rewrite ``graph`` in place."""
    for node in list(graph.nodes):
        source = node.args[0] if node.args else None
        known = info(source).tensor if isinstance(source, fx.Node) else None
        if known is None or not known.is_float or info(node).tensor is None or not set(node.kwargs) <= _KEYWORDS:
            continue
        if info(node).op == ALIASED:
            continue
        if node.op == "call_method" and node.target in _METHODS:
            _rewrite(node, _METHODS[str(node.target)], _size_first(node.args[1:]))
        elif node.op == "call_method" and node.target == "new_tensor" and not isinstance(node.args[1], fx.Node):
            _rewrite(node, torch.tensor, node.args[1:])
        elif node.op == "call_function" and node.target in _FUNCTIONS:
            _rewrite(node, _FUNCTIONS[node.target], (_ask(node, "shape", known.shape), *node.args[1:]))


def _size_first(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """``new_zeros(2, 3)`` means ``new_zeros((2, 3))``."""
    return args if not args or not isinstance(args[0], int) else (args,)


def _rewrite(node: fx.Node, factory: Any, args: tuple[Any, ...]) -> None:
    made = info(node).tensor
    assert made is not None
    device = _ask(node, "device", made.device)
    node.op, node.target = "call_function", factory
    node.args, node.kwargs = args, {"device": device, "dtype": made.dtype, **node.kwargs}


def _ask(node: fx.Node, attribute: str, answer: Any) -> fx.Node:
    """A node that asks the tensor behind ``node``'s first argument for an attribute."""
    with node.graph.inserting_before(node):
        asked = node.graph.call_function(getattr, (node.args[0], attribute))
    origin = changed_info(info(node).origin, spelling=f".{attribute}")
    set_info(asked, NodeInfo(value=answer, origin=origin, origins=(asked.name,), made_by=MADE_BY))
    return asked
