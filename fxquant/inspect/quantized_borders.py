"""With which parameters integers enter and leave a converted model."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, fx, nn

from fxquant.errors import FxquantError
from fxquant.ir.checks import take_integers
from fxquant.ir.containers import RANGES
from fxquant.ir.edit import get_tensor
from fxquant.ir.meta import info
from fxquant.ir.stages import QuantizedModel, ReferenceModel
from fxquant.plan.borders import output_elements


@dataclass(frozen=True)
class BorderQParams:
    """Parameters of uint8 integers: ``x = (q - zero_point) * scale``."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class QuantizedBorders:
    """Parameters of the values that cross a model's border as integers.

    Attributes:
        inputs: by the name of the input in the model's signature.
        outputs: by position, for each tensor of the element; empty for quantized models, whose tensors carry their
            parameters.
    """

    inputs: dict[str, BorderQParams] = field(default_factory=dict)
    outputs: dict[int, tuple[BorderQParams, ...]] = field(default_factory=dict)


def quantized_borders(model: ReferenceModel | QuantizedModel) -> QuantizedBorders:
    """Read the parameters from the model's buffers.

    Args:
        model: from ``convert_to_reference_fx`` or ``convert_fx``, prepared with quantized indexes; without them both
            dictionaries are empty.

    Raises:
        FxquantError: ``model`` is none of these.
    """
    if isinstance(model, ReferenceModel):
        taken = {node.args[4]: node.args[1:3] for node in model.graph.nodes if node.target is take_integers}
        inputs = {str(name): _read(model, *(str(item.target) for item in pair)) for name, pair in taken.items()}
        return QuantizedBorders(inputs, _outputs(model))
    if isinstance(model, QuantizedModel):
        held = {node.name: str(node.target) for node in model.graph.find_nodes(op="placeholder")}
        names = {f"{name}_taken": held[name] for name in model.plan.quantized_inputs}
        kernels = {names[node.name]: str(node.target) for node in model.graph.nodes if node.name in names}
        return QuantizedBorders(
            {name: _read(model, f"{path}.scale", f"{path}.zero_point") for name, path in kernels.items()}
        )
    raise FxquantError(
        f"quantized_borders needs a converted model, got {type(model).__name__}",
        remedy="pass what convert_fx or convert_to_reference_fx returned",
    )


def _outputs(model: ReferenceModel) -> dict[int, tuple[BorderQParams, ...]]:
    elements = output_elements(model.graph.output_node().args[0])
    class_of = {member: item.name for item in model.plan.classes for member in item.members}
    found: dict[int, tuple[BorderQParams, ...]] = {}
    for index in model.plan.quantized_outputs:
        nodes: list[fx.Node] = []
        fx.node.map_arg(elements[index], nodes.append)
        prefixes = [f"{RANGES}.{class_of[info(node).holds]}" for node in nodes if info(node).holds]
        found[index] = tuple(_read(model, f"{prefix}.scale", f"{prefix}.zero_point") for prefix in prefixes)
    return found


def _read(model: nn.Module, scale: str, zero_point: str) -> BorderQParams:
    pair: list[Tensor] = [get_tensor(model, path) for path in (scale, zero_point)]
    return BorderQParams(float(pair[0]), int(pair[1]))
