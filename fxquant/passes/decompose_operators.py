"""Rewrite operators that are several in one into parts, each of which can run int8; before planning.

What each becomes is in ``decompose_attention``, ``decompose_products`` and ``products_as_linear``. Operators whose
configuration keeps their results float stay whole. The last part keeps the name of the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxquant.capture.training_mode import ByMode, ModeArgument
from fxquant.fusion.fuse_units import constant_nodes
from fxquant.ir.edit import copy_graph
from fxquant.ir.meta import info
from fxquant.ir.stages import CapturedModel
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
from fxquant.passes.products_as_linear import addmm_around_linear, einsum_as_linear, either_matmul_as_linear
from fxquant.plan.read_qconfig import QConfigReader, activation_spec, mode_of
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
_AS_LINEAR: dict[str, Callable[[PartsWriter], Any]] = {
    "addmm": addmm_around_linear,
    "einsum": einsum_as_linear,
    "matmul": either_matmul_as_linear,
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
    read = QConfigReader()
    constants, by_mode = constant_nodes(graph), _others_in_training(captured.state.by_mode)
    for node in list(graph.nodes):
        whole = node.name in constants or node.name in by_mode
        if info(node).op in DECOMPOSED and not whole and _is_float32(node):
            decompose = _decomposition(info(node).op, configs[node.name].qconfig, read)
            if decompose is not None:
                decompose(PartsWriter(node, constants))
    mark_masks(graph)
    return CapturedModel(captured, graph, type(captured).__name__, state=captured.state)


def _decomposition(op: str, qconfig: Any, read: QConfigReader) -> Callable[[PartsWriter], Any] | None:
    """How to take an operator apart; without ranges of activations only products with constants have kernels."""
    if qconfig is None:
        return None
    mode = read(mode_of, qconfig)
    if mode:
        return _AS_LINEAR.get(op) if mode in ("dynamic", "float16") else None
    return None if read(activation_spec, qconfig).dtype.is_floating_point else DECOMPOSED[op]


def _others_in_training(by_mode: ByMode) -> set[str]:
    """Names of operators with other operands in training: these belong to the whole."""
    return {item.node for item in by_mode if isinstance(item, ModeArgument) and item.operand != "dropout_p"}


def _is_float32(node: fx.Node) -> bool:
    tensor = info(node).tensor
    return tensor is not None and tensor.dtype == torch.float32 and not info(node).role
