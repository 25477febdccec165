"""Whether a conversion is right on the example inputs: float, reference and lowered model, node by node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxquant.backends.native.take_inputs import take_inputs
from fxquant.errors import ConvertError
from fxquant.inspect.agreement import Agreement, compare_values_of
from fxquant.inspect.find_wrong_kernels import find_wrong_kernels, judge
from fxquant.inspect.record_values import KernelFailure, RecordedValues, positional, record_values
from fxquant.ir.containers import RANGES
from fxquant.ir.edit import get_tensor
from fxquant.ir.quant_plan import CUSTOM, STANDALONE
from fxquant.ir.stages import ObservedModel, QuantizedModel, ReferenceModel
from fxquant.numerics.affine import dequantize
from fxquant.numerics.sqnr import sqnr_db
from fxquant.passes.insert_observers import remove_observers
from fxquant.plan.demote_unit import Demotion


@dataclass(frozen=True)
class Verification:
    """What a check of a conversion found.

    Attributes:
        demotions: units to plan again, empty when there is nothing to do.
        note: what was found in the end, one sentence.
    """

    demotions: tuple[Demotion, ...]
    note: str = ""


def verify_conversion(observed: ObservedModel, reference: ReferenceModel, quantized: QuantizedModel) -> Verification:
    """Run the example inputs through float, reference and lowered model, and compare them value by value.

    Args:
        observed: what was converted; it has the example inputs, and is not changed.
        reference, quantized: what it was converted to.

    Raises:
        ConvertError: the observed model has no example inputs.
    """
    if observed.example_inputs is None:
        raise ConvertError(
            "verify=True needs the example inputs, which are not kept in files",
            remedy="set model.example_inputs = ((x, ...), {}) before converting, or leave verify out",
        )
    args, kwargs = observed.example_inputs
    inputs = positional(reference.graph, args, kwargs)
    on_cpu = pytree.tree_map(lambda item: item.cpu() if isinstance(item, Tensor) else item, inputs)
    try:
        values = record_values(quantized, tuple(take_inputs(reference, on_cpu)), {})
        agreement = compare_values_of(reference, quantized, values, torch.float32)
    except KernelFailure as failure:
        why = f"failed on the example ({failure.message})"
        return Verification((Demotion(failure.part, failure.unit, why),))
    wrong = find_wrong_kernels(reference, agreement)
    return Verification(wrong) if wrong else Verification((), _note(observed, inputs, reference, values, agreement))


def _note(
    observed: ObservedModel,
    inputs: list[Any],
    reference: ReferenceModel,
    values: RecordedValues,
    agreement: Agreement,
) -> str:
    """The sentence for a conversion with nothing left to plan again."""
    remaining = "; ".join(f"{row.unit} {why}" for row in agreement.rows if (why := judge(row)))
    text = f"verified on the example inputs: {len(agreement.rows)} int8 values within a quantum of the reference"
    text += f", but {remaining}" if remaining else ""
    if _observes_inside(observed):
        return text
    float_run = _FloatRun(observed, reference, values)
    with torch.no_grad():
        output = float_run.run(*inputs)
    pairs = zip(pytree.tree_leaves(output), pytree.tree_leaves(values.output), strict=True)
    levels = [_distance(expected, actual) for expected, actual in pairs if _comparable(expected)]
    if levels:
        text += f"; the output is {min(levels):.1f} dB from float"
    if float_run.levels:
        name, level = min(float_run.levels.items(), key=lambda item: item[1])
        text += f", the farthest value {name} {level:.1f} dB"
    return text


def _observes_inside(observed: ObservedModel) -> bool:
    """Whether modules within the model observe on their own, so that running them in float would change ranges."""
    conventions = {unit.kernel.convention for unit in observed.plan.units if unit.kernel is not None}
    return bool(conventions & {CUSTOM, STANDALONE})


class _FloatRun(fx.Interpreter):
    """Runs the float model and compares its values with those that the lowered one holds as integers.

    Attributes:
        levels: signal to quantization noise in dB by value.
    """

    def __init__(self, observed: ObservedModel, reference: ReferenceModel, values: RecordedValues) -> None:
        super().__init__(observed, graph=remove_observers(observed))
        self.reference, self.values = reference, values
        self.class_of = {name: item.name for item in reference.plan.classes for name in item.members}
        self.levels: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Execute ``n`` and compare its value."""
        value = super().run_node(n)
        integers = self.values.integers.get(n.name)
        if integers is not None and _comparable(value):
            prefix = f"{RANGES}.{self.class_of[n.name]}"
            scale, zero_point = (get_tensor(self.reference, f"{prefix}.{key}") for key in ("scale", "zero_point"))
            self.levels[n.name] = sqnr_db(value.cpu(), dequantize(integers, scale, zero_point))
        return value


def _comparable(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0


def _distance(expected: Tensor, actual: Tensor) -> float:
    return sqnr_db(expected.cpu(), actual.dequantize() if actual.is_quantized else actual)
