"""Inputs of a quantized model made from the inputs of the float model."""

from __future__ import annotations

from typing import Any

import torch

from fxquant.ir.containers import RANGES
from fxquant.ir.edit import get_tensor
from fxquant.ir.stages import ReferenceModel


def take_inputs(reference: ReferenceModel, inputs: list[Any]) -> list[Any]:
    """Quantize those that the model takes as quint8 tensors.

    Args:
        reference: the model that was lowered.
        inputs: what the float model takes, in the order of the placeholders.
    """
    names = [node.name for node in reference.graph.find_nodes(op="placeholder")]
    class_of = {name: item.name for item in reference.plan.classes for name in item.members}
    taken = list(inputs)
    for index, name in enumerate(names):
        if name in reference.plan.quantized_inputs:
            prefix = f"{RANGES}.{class_of[name]}"
            scale, zero_point = (get_tensor(reference, f"{prefix}.{key}") for key in ("scale", "zero_point"))
            taken[index] = torch.quantize_per_tensor(inputs[index], float(scale), int(zero_point), torch.quint8)
    return taken
