"""Whether each lowered unit computes what the reference says, given identical integer inputs.

End to end, single rounding differences spread through a network, so a lowering is judged unit by unit: the
quantized model is run once with every value kept; each unit of the reference is evaluated alone, in float64, on the
integers that the quantized model fed to that unit; its integers and the kernel's are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, fx

from fxquant.inspect.agreement_dynamic import reads_ties, rounded_results
from fxquant.inspect.agreement_limits import DYNAMIC, Limit, limit_of
from fxquant.inspect.record_values import RecordedValues, record_values
from fxquant.inspect.reference_arithmetic import ReferenceArithmetic
from fxquant.ir.meta import info
from fxquant.ir.qdq import quantize
from fxquant.ir.quant_plan import CUSTOM, Unit
from fxquant.ir.stages import QuantizedModel, ReferenceModel

# Float32 sums of a zero point and a level below 256 are off by 1e-5 at most; kernels add a few such errors.
_TIE = 1e-4


@dataclass(frozen=True)
class UnitAgreement:
    """One unit's integers, kernel against reference.

    Attributes:
        unit: name of the value, after the path of its standalone module.
        op: catalogue name, ``quantize`` at a border, kernel: what made the integers.
        count: number of elements, differing: how many differ.
        ties: how many the reference has half-way between two integers, where float32 may round either way; 0 when no
            element differs.
        max_difference: largest difference in quanta; -1 when the shapes differ.
        limit: what the arithmetic allows.
        part: path of the standalone module it is in, "" for the model itself.
    """

    unit: str
    op: str
    kernel: str
    count: int
    differing: int
    ties: int
    max_difference: int
    limit: Limit
    part: str = ""

    @property
    def name(self) -> str:
        """The unit's name in its standalone module."""
        return self.unit.removeprefix(f"{self.part}.")

    @property
    def rate(self) -> float:
        """Share of elements that differ."""
        return self.differing / self.count if self.count else 0.0

    @property
    def agrees(self) -> bool:
        """Whether the differences stay within the limit."""
        within = 0 <= self.max_difference <= self.limit.quanta
        return within and self.differing <= self.allowed

    @property
    def allowed(self) -> int:
        """How many elements may differ."""
        return self.limit.allowed(self.count) + (self.ties if self.limit.quanta else 0)


@dataclass(frozen=True)
class Agreement:
    """Rows of all integer values, in execution order."""

    rows: tuple[UnitAgreement, ...]

    @property
    def violations(self) -> tuple[UnitAgreement, ...]:
        """Rows beyond their limits."""
        return tuple(row for row in self.rows if not row.agrees)

    @property
    def worst(self) -> UnitAgreement | None:
        """A violation if there is one, else the row with the highest rate; None without rows."""
        return max(self.rows, key=lambda row: (not row.agrees, row.max_difference, row.rate), default=None)

    def __str__(self) -> str:
        header = ("unit", "op", "kernel", "count", "differing", "ties", "max quanta", "rate", "allowed", "")
        body = [
            (r.unit, r.op, r.kernel, r.count, r.differing, r.ties, r.max_difference, f"{r.rate:.2%}",
             r.allowed, "" if r.agrees else "VIOLATION")
            for r in self.rows
        ]  # fmt: skip
        return tabulate(body, header)


def check_agreement(reference: ReferenceModel, quantized: QuantizedModel, *args: Any, **kwargs: Any) -> Agreement:
    """Compare every value that a quantized model holds in integer form with the reference; one row each.

    So are the results of kernels with floats on both sides, rounded to 255 steps over their range.

    Rows of standalone modules follow, named after the module's path. Custom modules are not judged: in the reference
    they compute in float, with weights that their own class may have rounded.

    Args:
        reference: from ``convert_to_reference_fx``, on the CPU.
        quantized: from ``convert_fx``, of the same observed model.
        args, kwargs: inputs as for calling the model.
    """
    return compare_values_of(reference, quantized, record_values(quantized, args, kwargs), torch.float64)


def compare_values_of(
    reference: ReferenceModel, quantized: QuantizedModel, values: RecordedValues, dtype: torch.dtype
) -> Agreement:
    """Compare a run of a quantized model with the reference, standalone modules included.

    Args:
        reference, quantized: as for ``check_agreement``.
        values: the run.
        dtype: what the reference computes in first; units that differ then are computed again in float64. float32
            takes a third of the time.

    Raises:
        KernelFailure: a kernel of a standalone module raised an error.
    """
    with torch.no_grad():
        rows = list(compare_values(reference, values, dtype))
    for path, (args, kwargs) in values.parts.items():
        part, lowered = reference.get_submodule(path), quantized.get_submodule(path)
        assert isinstance(part, ReferenceModel) and isinstance(lowered, QuantizedModel)
        inside = compare_values_of(part, lowered, record_values(lowered, args, kwargs), dtype)
        rows += [replace(row, unit=f"{path}.{row.unit}", part=f"{path}.{row.part}".rstrip(".")) for row in inside.rows]
    return Agreement(tuple(rows))


def compare_values(
    reference: ReferenceModel, values: RecordedValues, dtype: torch.dtype, only: str = ""
) -> Iterator[UnitAgreement]:
    """Compare the integers of a run with the reference.

    Args:
        reference: the reference model; its standalone modules are left out.
        values: the run.
        dtype: what the reference computes in first.
        only: the value to compare, "" for all.
    """
    arithmetic = ReferenceArithmetic(reference, values)
    dynamic = {unit.name: unit for unit in reference.plan.units if unit.mode}
    for node in reference.graph.nodes:
        if only in ("", info(node).holds) and _can_judge(node, arithmetic):
            row = _compare(node, arithmetic, dtype)
            yield row if row.agrees or dtype == torch.float64 else _compare(node, arithmetic, torch.float64)
        unit = dynamic.get(arithmetic.results.get(node, ""))
        if unit is not None and only in ("", unit.name):
            yield from _compare_dynamic(node, unit, arithmetic)


def _compare_dynamic(node: fx.Node, unit: Unit, arithmetic: ReferenceArithmetic) -> Iterator[UnitAgreement]:
    """The row of a unit with floats on both sides; none where the run lacks its value."""
    found = rounded_results(node, unit.name, arithmetic)
    if found is None:
        return
    expected, actual = found
    row = UnitAgreement(
        unit=unit.name,
        op=unit.op,
        kernel=str(unit.kernel),
        count=expected.numel(),
        differing=expected.numel(),
        ties=0,
        max_difference=-1,
        limit=DYNAMIC,
    )
    if actual.shape != expected.shape:
        yield row
        return
    counted = _counted(row, expected, actual)
    if not counted.agrees and counted.max_difference == 1 and reads_ties(node, unit.name, arithmetic):
        counted = replace(counted, ties=counted.count)  # one number that rounds the other way moves many sums
    yield counted


def _counted(row: UnitAgreement, expected: Tensor, actual: Tensor) -> UnitAgreement:
    """A row with its differences counted."""
    difference = (actual.to(torch.int32) - expected.to(torch.int32)).abs()
    largest = int(difference.max()) if difference.numel() else 0
    return replace(row, differing=int(torch.count_nonzero(difference)), max_difference=largest)


def _can_judge(node: fx.Node, arithmetic: ReferenceArithmetic) -> bool:
    """Whether the node makes integers that the run holds too, by arithmetic that both share."""
    unit = arithmetic.units.get(info(node).unit)
    is_custom = unit is not None and unit.kernel is not None and unit.kernel.convention == CUSTOM
    return node.target is quantize and info(node).holds in arithmetic.given.integers and not is_custom


def _compare(node: fx.Node, arithmetic: ReferenceArithmetic, dtype: torch.dtype) -> UnitAgreement:
    """The row of one ``fxquant.quantize`` node of the reference graph."""
    name, unit = info(node).holds, arithmetic.units.get(info(node).unit)
    level = arithmetic.level(node, dtype)
    actual, expected = arithmetic.given.integers[name], arithmetic.rounded(level, node)
    kernel = str(unit.kernel) if unit is not None and unit.kernel is not None else ""
    row = UnitAgreement(
        unit=name,
        op="quantize" if unit is None else unit.op,
        kernel=kernel or arithmetic.given.made_by[name],
        count=expected.numel(),
        differing=expected.numel(),
        ties=0,
        max_difference=-1,
        limit=limit_of(unit, arithmetic.reference.plan),
    )
    if actual.shape != expected.shape:
        return row
    if torch.equal(actual, expected):
        return replace(row, differing=0, max_difference=0)
    ties = int(((level - level.floor() - 0.5).abs() < _TIE).sum())
    return replace(_counted(row, expected, actual), ties=ties)
