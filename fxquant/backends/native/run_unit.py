"""Run the kernel of one planned unit on integers that are given, without lowering the model around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.backends.native.convention import Made, UnitView
from fxquant.backends.native.kernels.base import from_integers
from fxquant.backends.native.make_kernel import make_kernel
from fxquant.ir.containers import RANGES
from fxquant.ir.edit import get_tensor
from fxquant.ir.meta import info
from fxquant.ir.quant_plan import Unit
from fxquant.ir.stages import ReferenceModel


def run_unit(reference: ReferenceModel, unit: Unit, given: Mapping[str, Tensor]) -> Tensor:
    """Make the kernel of a unit and call it.

    Args:
        reference: holds its weights and parameters.
        unit: a unit all of whose activations are integers.
        given: uint8 integers by the names of the values it reads.

    Returns:
        uint8 integers.

    Raises:
        BackendError: its engine is not in this build of torch.
    """
    members = [node for node in reference.graph.nodes if info(node).unit == unit.name]
    anchor = next(node for node in members if node.name == unit.anchor)
    ranges = {edge.source: edge.range_class for edge in unit.inputs}

    def lowered(argument: Any) -> Any:
        """The quantized tensor behind a dequantized input."""
        if not isinstance(argument, fx.Node):
            return argument
        name = info(argument.all_input_nodes[0]).holds
        scale, zero_point = (get_tensor(reference, f"{RANGES}.{ranges[name]}.{key}") for key in ("scale", "zero_point"))
        return from_integers(given[name].clone(), float(scale), int(zero_point))

    view = UnitView(unit, anchor, members, reference, lowered)
    with torch.inference_mode(False), torch.no_grad():
        result: Any = None
        for made in make_kernel(view):
            result = view.previous = _call(made)
    integers: Tensor = result.int_repr()
    return integers


def _call(made: Made) -> Any:
    if made.module is not None:
        return made.module(*made.args, **made.kwargs)
    if isinstance(made.target, str):
        return getattr(made.args[0], made.target)(*made.args[1:], **made.kwargs)
    return made.target(*made.args, **made.kwargs)
