"""Kernels that leave the reference: found on random integers when they are suspected, or on an example of the inputs.

What is found is data: the units to plan again, and why.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fxquant.backends.native.engine import available_engines
from fxquant.backends.native.run_unit import run_unit
from fxquant.fusion.rule import spatial_rank
from fxquant.inspect.agreement import Agreement, UnitAgreement, compare_values
from fxquant.inspect.record_values import RecordedValues
from fxquant.ir.meta import TensorMeta
from fxquant.ir.quant_plan import CUSTOM, STANDALONE, QuantPlan, Unit
from fxquant.ir.stages import ReferenceModel
from fxquant.plan.demote_unit import Demotion

# Wrong kernels are wrong for some batch sizes only.
_PROBED_BATCHES = (1, 3)
# One rounding more or less is no fault of a kernel; more than that is.
_ALLOWED_QUANTA = 1


def probe_kernels(reference: ReferenceModel) -> Iterator[Demotion]:
    """Try the kernels that are known to be wrong for some shapes on random integers, in standalone modules too.

    Args:
        reference: a frozen model on the CPU; kernels of engines that this build of torch lacks are not tried.
    """
    for part in reference.modules():
        if isinstance(part, ReferenceModel):
            for unit in part.plan.units:
                if unit.kernel is not None and unit.kernel.probed and unit.kernel.engine in available_engines():
                    why = next((why for batch in _PROBED_BATCHES if (why := _probe(part, unit, batch))), "")
                    if why:
                        yield Demotion(part.state.path, unit.name, f"{why} on random data")


def find_wrong_kernels(reference: ReferenceModel, agreement: Agreement) -> tuple[Demotion, ...]:
    """The units that an agreement shows beyond a quantum, and that can be planned again.

    Args:
        reference: the model that was lowered.
        agreement: of its lowered form, on an example.
    """
    known = {part.state.path: part.plan for part in reference.modules() if isinstance(part, ReferenceModel)}
    return tuple(
        Demotion(row.part, row.name, f"{why} on the example")
        for row in agreement.rows
        if (why := judge(row)) and _has_kernel(known[row.part], row.name)
    )


def judge(row: UnitAgreement) -> str:
    """What a kernel did wrong, "" when it is within a quantum of the reference."""
    if row.max_difference < 0:
        return "returned another shape than the reference"
    return f"left the reference by {row.max_difference} quanta" if row.max_difference > _ALLOWED_QUANTA else ""


def _has_kernel(plan: QuantPlan, name: str) -> bool:
    """Whether a value is made by a kernel of the backend's."""
    unit = next((unit for unit in plan.units if unit.name == name and (unit.output or unit.mode)), None)
    return unit is not None and unit.kernel is not None and unit.kernel.convention not in (STANDALONE, CUSTOM)


def _probe(reference: ReferenceModel, unit: Unit, batch: int) -> str:
    """What a unit's kernel does wrong on random integers, "" for nothing."""
    shapes = {record.name: record.info.value for record in reference.state.captured}
    generator = torch.Generator().manual_seed(batch)
    values = RecordedValues()
    for edge in unit.inputs:
        shape = _with_batch(shapes[edge.source], batch, spatial_rank(unit.op))
        values.integers[edge.source] = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    try:
        values.integers[unit.name] = run_unit(reference, unit, values.integers)
    except RuntimeError as error:
        return f"failed ({str(error).splitlines()[0]})"
    rows = compare_values(reference, values, torch.float32, only=unit.name)
    return next((why for row in rows if (why := judge(row))), "")


def _with_batch(meta: TensorMeta, batch: int, rank: int) -> tuple[int, ...]:
    return (batch, *meta.shape[1:]) if len(meta.shape) == rank + 2 else meta.shape
