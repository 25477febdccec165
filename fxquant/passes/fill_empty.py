"""Let tensors that are made without values hold zeros: what lies in such memory would be taken for activations.

Before::

    %t = empty_like(%x);  setitem(%t, (..., slice(0, None, 2)), %a);  ...

After::

    %t = zeros_like(%x);  setitem(%t, (..., slice(0, None, 2)), %a);  ...
"""

from __future__ import annotations

import torch
from torch import fx

_FUNCTIONS = {torch.empty: torch.zeros, torch.empty_like: torch.zeros_like}
_METHODS = {"new_empty": "new_zeros"}
_USUAL = (torch.contiguous_format, torch.preserve_format)


def fill_empty(graph: fx.Graph) -> None:
    """Rewrite ``graph`` in place. ``torch.zeros`` knows the usual memory formats only."""
    for node in graph.nodes:
        if node.op == "call_method":
            node.target = _METHODS.get(str(node.target), node.target)
        elif node.op == "call_function" and node.target in _FUNCTIONS:
            kwargs = {
                name: value for name, value in node.kwargs.items() if name != "memory_format" or value not in _USUAL
            }
            if node.target is torch.empty_like or "memory_format" not in kwargs:
                node.target, node.kwargs = _FUNCTIONS[node.target], kwargs
