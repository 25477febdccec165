"""Read the stubs of a model written for the eager style: what computes outside of them stays float.

Before::

    %quant = call_module[quant](%x);  %y = conv2d(%quant, ...)
    %dequant = call_module[dequant](%y);  %z = mul(%dequant, 2)

After: the stubs are gone, and ``%z`` has the role ``outside``::

    %y = conv2d(%x, ...);  %z = mul(%y, 2)
"""

from __future__ import annotations

from torch import fx, nn

from fxquant.capture.stubs import QUANT, is_border, stub_kind
from fxquant.ir.meta import OUTSIDE, info, update_info

_CONSTANT, _FLOAT, _INTEGER = range(3)


def mark_borders(graph: fx.Graph, root: nn.Module) -> None:
    """Mark and remove, in place. Graphs without a ``QuantStub`` have no borders: nothing is marked.

    Args:
        graph: as traced, with stubs as leaf modules.
        root: the model the graph refers to.
    """
    stubs = {
        node: stub_kind(root.get_submodule(str(node.target)))
        for node in graph.find_nodes(op="call_module")
        if is_border(root.get_submodule(str(node.target)))
    }
    if QUANT in stubs.values():
        _mark(graph, stubs)
    for node in stubs:
        node.replace_all_uses_with(node.all_input_nodes[0])
        graph.erase_node(node)


def _mark(graph: fx.Graph, stubs: dict[fx.Node, str]) -> None:
    """As in eager mode, an operator computes on integers when one of its operands is made of integers."""
    kinds: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node in stubs:
            kinds[node] = _INTEGER if stubs[node] == QUANT else _FLOAT
            continue
        kinds[node] = max((kinds[source] for source in node.all_input_nodes), default=_CONSTANT)
        if node.op == "placeholder":
            kinds[node] = _FLOAT
        made = info(node).is_float_tensor or isinstance(info(node).value, (tuple, list))
        if kinds[node] == _FLOAT and made and node.op.startswith("call_"):
            update_info(node, role=OUTSIDE)
