"""Freezing the modules that a plan treats as one operator: standalone and custom modules.

Before: ``block`` is an observed model of its own; ``layer`` an observed custom module, called by two units.

After: ``block`` is a reference model, with the parameters of the integers that the model around it passes in; each unit
has its own copy of ``layer``, with the observer of that unit's result as ``activation_post_process``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn

from fxquant.errors import ConvertError
from fxquant.ir.containers import RANGE_OBSERVERS, RANGES
from fxquant.ir.edit import get_tensor, output_node
from fxquant.ir.meta import info
from fxquant.ir.quant_plan import Unit
from fxquant.ir.stages import ObservedModel, ReferenceModel
from fxquant.passes.compute_qparams import QParams
from fxquant.plan.borders import float_nodes, output_elements

Freeze = Callable[[ObservedModel, Mapping[str, QParams]], ReferenceModel]


def freeze_standalone(unit: Unit, child: nn.Module, freeze: Freeze, qparams: Mapping[str, QParams]) -> ReferenceModel:
    """Freeze a standalone module.

    Args:
        unit: its call.
        child: the observed module.
        freeze: freezes a model whose quantized inputs have the given parameters.
        qparams: parameters of the range classes around it.

    Raises:
        ConvertError: the module at this path is no observed model any more.
    """
    if not isinstance(child, ObservedModel):
        raise ConvertError(
            f"standalone module {unit.name} is a {type(child).__name__}, not the observed model that prepare_fx made",
            op=unit.op,
            remedy="convert the prepared model as it is",
        )
    names = {str(node.target): node.name for node in child.graph.find_nodes(op="placeholder")}
    return freeze(child, {names[edge.operand]: qparams[edge.range_class] for edge in unit.inputs})


def output_qparams(reference: ReferenceModel) -> QParams:
    """Parameters of the integers that a reference model returns first."""
    returned = output_elements(output_node(reference.graph).args[0])[0]
    value = info(_only(returned)).holds
    name = next(item.name for item in reference.plan.classes if value in item.members)
    scale, zero_point = (get_tensor(reference, f"{RANGES}.{name}.{key}") for key in ("scale", "zero_point"))
    return QParams(scale.clone(), zero_point.clone())


def _only(returned: Any) -> fx.Node:
    assert isinstance(returned, fx.Node)
    return returned


def require_simple_output(model: ObservedModel) -> None:
    """Refuse standalone modules whose integers cannot be told apart in the plan around them.

    Raises:
        ConvertError: integers are returned in a container, or besides other things.
    """
    returned = output_node(model.graph).args[0]
    if model.plan.quantized_outputs and (isinstance(returned, (tuple, list, dict)) or not float_nodes(returned)):
        raise ConvertError(
            f"standalone module {model.state.path} returns integers in a {type(returned).__name__}",
            module_path=model.state.path,
            remedy="return one tensor, or take set_output_quantized_indexes out",
        )


def observed_for_unit(observed: ObservedModel, path: str, range_class: str) -> nn.Module:
    """A copy of an observed custom module with the observer of its unit's result.

    Args:
        observed: the model it is in.
        path: where it is.
        range_class: name of the class of its result.
    """
    module = copy.deepcopy(observed.get_submodule(path))
    observer = observed.get_submodule(f"{RANGE_OBSERVERS}.{range_class}.observer")
    module.activation_post_process = copy.deepcopy(observer)
    return module
