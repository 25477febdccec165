"""Rewrite attributes that are views as the calls they stand for.

Before::

    %a = getattr(%x, "mT");  %b = getattr(%y, "T");  %c = getattr(%z, "data")

After::

    %a = transpose(%x, -2, -1);  %b = permute(%y, 1, 0);  %c = detach(%z)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxquant.ir.meta import ALIASED, TensorMeta, info


def call_attributes(graph: fx.Graph) -> None:
    """Rewrite ``graph`` in place."""
    for node in graph.nodes:
        if node.target is not getattr or info(node).op == ALIASED or not isinstance(node.args[0], fx.Node):
            continue
        source = node.args[0]
        call = _call_of(str(node.args[1]), info(source).tensor)
        if call is not None:
            node.target, rest = call
            node.args = (source, *rest)


def _call_of(name: str, meta: TensorMeta | None) -> tuple[Any, tuple[Any, ...]] | None:
    """Function and further arguments for an attribute; None for those that are no views of real numbers."""
    if meta is None or not meta.is_float:
        return None
    if name in ("mT", "mH", "H"):
        return torch.transpose, (-2, -1)
    if name == "T":
        return torch.permute, (tuple(reversed(range(len(meta.shape)))),)
    return (torch.detach, ()) if name in ("data", "real") else None
