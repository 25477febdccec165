"""Batch norms that are units of their own become function calls at freeze; until then they stay modules.

Before::

    %bn = call_module[bn](%x)

After::

    %bn = batch_norm(%x, bn.running_mean, bn.running_var, weight=bn.weight, bias=bn.bias, eps=1e-05)
"""

from __future__ import annotations

from collections.abc import Collection

from torch import fx, nn

from fxquant.ir.meta import NodeInfo, TensorMeta, info, set_info
from fxquant.ops import catalogue

MADE_BY = "call_batch_norms"


def call_batch_norms(graph: fx.Graph, root: nn.Module, names: Collection[str]) -> None:
    """Rewrite calls of batch-norm modules in place.

    Args:
        graph: changed.
        root: the model the graph refers to.
        names: of the nodes to rewrite; others are left alone.
    """
    for node in list(graph.nodes):
        if node.op == "call_module" and node.name in names and info(node).op == "batch_norm":
            _rewrite(graph, node, root.get_submodule(str(node.target)))


def _rewrite(graph: fx.Graph, node: fx.Node, module: nn.Module) -> None:
    row = catalogue.row_of(node)
    bound = row.bind((node.args[0], None, None), {"eps": module.eps})
    with graph.inserting_before(node):
        for name in row.weights:
            if getattr(module, name) is not None:
                bound[name] = graph.create_node("get_attr", f"{node.target}.{name}", name=f"{node.name}_{name}")
                set_info(bound[name], NodeInfo(value=TensorMeta.of(getattr(module, name)), made_by=MADE_BY))
    assert callable(row.target)
    node.op, node.target = "call_function", row.target
    node.args, node.kwargs = row.unbind(bound)
