"""Store tensors that forward makes of plain numbers as constants of the model: their numbers are known before any data.

Before::

    %t = torch.tensor(0.5);  %y = mul(%x, %t)             # made and quantized anew in every call

After::

    %t = get_attr[_made_constant0];  %y = mul(%x, %t)     # a table holds the products

Tensors that something may write into, that the model returns, or that are large stay as they are.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.ir.meta import ALIASED, info

_FACTORIES = frozenset(
    (
        torch.tensor, torch.as_tensor, torch.scalar_tensor, torch.full, torch.zeros, torch.ones, torch.eye,
        torch.arange, torch.linspace, torch.logspace,
    )
)  # fmt: skip
_KEYWORDS = frozenset(("data", "size", "fill_value", "n", "m", "start", "end", "step", "steps", "base", "dtype"))
# A file holds what is stored; what is larger than the weights of a small layer is quicker made than read.
_LARGEST = 1 << 16


def store_constants(graph: fx.Graph, root: nn.Module) -> None:
    """Rewrite ``graph`` in place.

    Args:
        graph: canonical, in-place operations replaced.
        root: the model it refers to, which gets buffers that are not part of its state_dict.
    """
    for node in list(graph.nodes):
        if node.target not in _FACTORIES or not _stays_as_made(node):
            continue
        value = _made(node)
        if value is not None:
            name = _free_name(root)
            root.register_buffer(name, value, persistent=False)
            node.op, node.target, node.args, node.kwargs = "get_attr", name, (), {}


def _stays_as_made(node: fx.Node) -> bool:
    """Whether nobody can write into the tensor, and it is none of the model's results."""
    if info(node).op == ALIASED or any(node.name in info(user).mutates for user in node.users):
        return False
    reads = [user.op in ("call_function", "call_method") or bool(info(user).op) for user in node.users]
    return all(reads) and bool(reads)


def _made(node: fx.Node) -> Tensor | None:
    """The tensor on the CPU, where it is made of plain numbers; None otherwise."""
    meta, kwargs = info(node).tensor, {name: value for name, value in node.kwargs.items() if name in _KEYWORDS}
    others = {name: value for name, value in node.kwargs.items() if name not in _KEYWORDS}
    device: Any = others.pop("device", None)
    writes = others.pop("requires_grad", False)
    if meta is None or meta.device != "cpu" or others or writes or _reads_nodes((node.args, kwargs)):
        return None
    follows = device is None or isinstance(device, fx.Node) or torch.device(device).type == "cpu"
    if not follows or prod(meta.shape) > _LARGEST:
        return None
    value: Any = node.target(*node.args, **kwargs)  # type: ignore[operator]
    assert isinstance(value, Tensor)
    return value if value.dtype == meta.dtype and tuple(value.shape) == meta.shape else None


def _reads_nodes(arguments: Any) -> bool:
    found: list[fx.Node] = []
    fx.node.map_arg(arguments, found.append)
    return bool(found)


def _free_name(root: nn.Module) -> str:
    number = 0
    while hasattr(root, f"_made_constant{number}"):
        number += 1
    return f"_made_constant{number}"
