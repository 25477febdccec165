"""The float weights that a model's integers stand for, for those who want to look at both.

Before: unit ``conv1`` computes with ``int8.conv1.weight``. After: ``{"conv1": [weight, bias or None]}`` in float32,
batch norm folded, before limits of kernels and the correction of biases.
"""

from __future__ import annotations

from torch import Tensor

from fxquant.fusion.rule import WEIGHTED
from fxquant.ir.quant_plan import STANDALONE
from fxquant.ir.stages import ObservedModel, ReferenceModel
from fxquant.passes.fold_weights import fold_weights
from fxquant.passes.insert_observers import remove_observers


def find_original_weights(observed: ObservedModel, reference: ReferenceModel) -> dict[str, list[Tensor | None]]:
    """Float weight and bias of every unit with an int8 weight, by its name.

    Args:
        observed: the model that was converted; its tensors are copied.
        reference: what it was converted to; its plan says which units have int8 weights.

    Returns:
        Units of standalone modules are named after the module's path and the unit: ``block.conv1``.
    """
    nodes = {node.name: node for node in remove_observers(observed).nodes}
    found: dict[str, list[Tensor | None]] = {}
    for unit in reference.plan.units:
        if unit.op in WEIGHTED and (unit.output or unit.mode == "dynamic"):
            folded = fold_weights(unit, nodes, observed)
            weight, bias = folded.as_called(folded.rows), folded.bias
            found[unit.name] = [weight.clone(), None if bias is None else bias.clone()]
        elif unit.kernel is not None and unit.kernel.convention == STANDALONE:
            path = str(nodes[unit.anchor].target)
            part, frozen = observed.get_submodule(path), reference.get_submodule(path)
            assert isinstance(part, ObservedModel) and isinstance(frozen, ReferenceModel)
            found |= {f"{path}.{name}": tensors for name, tensors in find_original_weights(part, frozen).items()}
    return found
