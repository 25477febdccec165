"""Refusing example inputs on which a layer with weights computes NaN or infinity, or which hold NaN themselves.

Values that are not finite stay float without a word where they may be meant: masks of -inf, logarithms of 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import fx

from fxquant.errors import CalibrationError
from fxquant.ir.meta import info
from fxquant.ops import catalogue
from fxquant.plan.resolve_qconfig import Resolved

_REMEDY = "look for values that are not finite in the calibration data and in the model's weights"


def require_finite(graph: fx.Graph, configs: Mapping[str, Resolved]) -> None:
    """Check every input, and every result of a layer with weights that has a qconfig.

    Args:
        graph: a canonical captured graph.
        configs: what the configuration says of each call, by name.

    Raises:
        CalibrationError: naming the first node whose value is not finite, and what makes it so.
    """
    quantizes = any(resolved.qconfig is not None for resolved in configs.values())
    for node in graph.nodes:
        resolved = configs.get(node.name)
        if quantizes and node.op == "placeholder" and math.isnan(info(node).largest):
            raise _error(node, "it holds NaN")
        if resolved is not None and resolved.qconfig is not None and _has_weights(node) and _breaks(node):
            broken = [source for source in node.all_input_nodes if not math.isfinite(info(source).largest)]
            why = f"{broken[0].name} holds NaN or infinity" if broken else "its results leave the range of its dtype"
            raise _error(node, why)


def _has_weights(node: fx.Node) -> bool:
    row = catalogue.by_name(info(node).op)
    return row is not None and not info(node).role and bool(row.weights) and (row.macs is not None or _normalizes(node))


def _normalizes(node: fx.Node) -> bool:
    return info(node).op == "batch_norm"


def _breaks(node: fx.Node) -> bool:
    return info(node).is_float_tensor and not math.isfinite(info(node).largest)


def _error(node: fx.Node, why: str) -> CalibrationError:
    origin = info(node).origin
    return CalibrationError(
        f"node {node.name!r} is not finite in the example inputs (by default calibration batch 0): {why}",
        op=info(node).op or node.name,
        module_path=origin.module_path,
        source=origin.source,
        remedy=_REMEDY,
    )
