"""Rewrite operators that are several in one into parts, each of which can run int8; before planning.

What each becomes is in ``decompose_attention`` and ``decompose_products``. Operators whose configuration keeps their
results float stay whole. The last part keeps the name of the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxquant.fusion.fuse_units import constant_nodes
from fxquant.ir import records
from fxquant.ir.edit import copy_graph
from fxquant.ir.meta import info
from fxquant.ir.stages import CapturedModel, with_state
from fxquant.passes.decompose_attention import decompose_attention
from fxquant.passes.decompose_products import (
    decompose_addmm,
    decompose_baddbmm,
    decompose_einsum,
    decompose_matmul,
    decompose_outer,
)
from fxquant.passes.mark_masks import mark_masks
from fxquant.passes.parts_writer import PartsWriter
from fxquant.plan.read_qconfig import activation_spec
from fxquant.plan.resolve_qconfig import Resolver
from fxquant.qconfig.mapping import QConfigMapping

DECOMPOSED: dict[str, Callable[[PartsWriter], None]] = {
    "scaled_dot_product_attention": decompose_attention,
    "addmm": decompose_addmm,
    "baddbmm": decompose_baddbmm,
    "einsum": decompose_einsum,
    "matmul": decompose_matmul,
    "outer": decompose_outer,
}


def decompose_operators(captured: CapturedModel, mapping: QConfigMapping) -> CapturedModel:
    """Decompose every such operator that has a qconfig, and mark what belongs to the softmax of an attention.

    Args:
        captured: not changed; returned when there is nothing to do.
        mapping: the configuration.

    Raises:
        ConfigError: a module name or pattern of ``mapping`` matches nothing.
    """
    if not any(info(node).op in (*DECOMPOSED, "softmax") for node in captured.graph.nodes):
        return captured
    graph, _ = copy_graph(captured.graph)
    resolver = Resolver(mapping, captured.state.module_paths, captured.state.config_prefix)
    configs = resolver.resolve_graph(graph)
    constants = constant_nodes(graph)
    for node in list(graph.nodes):
        decompose = DECOMPOSED.get(info(node).op)
        wanted = decompose is not None and node.name not in constants and _is_float32(node)
        if decompose is not None and wanted and _stores_integers(configs[node.name].qconfig):
            decompose(PartsWriter(node, constants))
    mark_masks(graph)
    state = with_state(captured, captured=records.from_graph(graph))
    return CapturedModel(captured, graph, type(captured).__name__, state=state)


def _stores_integers(qconfig: Any) -> bool:
    return qconfig is not None and not activation_spec(qconfig).dtype.is_floating_point


def _is_float32(node: fx.Node) -> bool:
    tensor = info(node).tensor
    return tensor is not None and tensor.dtype == torch.float32 and not info(node).role
