"""Whether each lowered unit computes what the reference says, given identical integer inputs.

End to end, single rounding differences spread through a network, so a lowering is judged unit by unit: the
quantized model is run once with every value kept; each unit of the reference is evaluated alone, in float64, on the
integers that the quantized model fed to that unit; its integers and the kernel's are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, fx

from fxquant.inspect.agreement_limits import Limit, limit_of
from fxquant.ir.edit import get_tensor
from fxquant.ir.meta import info
from fxquant.ir.qdq import dequantize, quantize
from fxquant.ir.stages import QuantizedModel, ReferenceModel

# Float32 sums of a zero point and a level below 256 are off by 1e-5 at most; kernels add a few such errors.
_TIE = 1e-4


@dataclass(frozen=True)
class UnitAgreement:
    """One unit's integers, kernel against reference.

    Attributes:
        unit: name of the value, op: catalogue name, ``quantize`` at a border, kernel: what made the integers.
        count: number of elements, differing: how many differ.
        ties: how many the reference has half-way between two integers, where float32 may round either way.
        max_difference: largest difference in quanta; -1 when the shapes differ.
        limit: what the arithmetic allows.
    """

    unit: str
    op: str
    kernel: str
    count: int
    differing: int
    ties: int
    max_difference: int
    limit: Limit

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

    Args:
        reference: from ``convert_to_reference_fx``, on the CPU.
        quantized: from ``convert_fx``, of the same observed model.
        args, kwargs: inputs as for calling the model.
    """
    with torch.no_grad():
        run = _Recorder(quantized)
        run.run(*_positional(quantized.graph, args, kwargs))
        units = _Units(reference, run)
        return Agreement(
            tuple(units.compare(node) for node in reference.graph.nodes if info(node).holds in run.integers)
        )


def _positional(graph: fx.Graph, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """Arguments in the order of the placeholders."""
    given, named = list(args), dict(kwargs)
    names = [str(node.target) for node in graph.nodes if node.op == "placeholder"]
    return [named.pop(name) if name in named else given.pop(0) for name in names]


class _Recorder(fx.Interpreter):
    """Runs a model and keeps its values.

    Attributes:
        integers: uint8 integers by the name of the captured value they hold.
        floats: other values by node name.
        made_by: kernel description by the name of the value.
    """

    def __init__(self, model: QuantizedModel) -> None:
        super().__init__(model, garbage_collect_values=False)
        self.integers: dict[str, Tensor] = {}
        self.floats: dict[str, Any] = {}
        self.made_by: dict[str, str] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Execute ``n`` and keep its value."""
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_quantized:
            if info(n).holds:
                self.integers[info(n).holds] = value.int_repr()
                self.made_by[info(n).holds] = self._title(n)
        elif not _holds_quantized(value):
            self.floats[n.name] = value.clone() if isinstance(value, Tensor) else value
        return value

    def _title(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return type(self.fetch_attr(str(node.target))).__name__
        return str(getattr(node.target, "__name__", node.target))


def _holds_quantized(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_holds_quantized(item) for item in value)
    return isinstance(value, Tensor) and value.is_quantized


class _Units:
    """Evaluates single units of a reference model on the values of a run."""

    def __init__(self, reference: ReferenceModel, run: _Recorder) -> None:
        self.reference, self.run = reference, run
        self.units = {unit.name: unit for unit in reference.plan.units if unit.output}

    def compare(self, node: fx.Node) -> UnitAgreement:
        """The row of one ``fxquant.quantize`` node of the reference graph."""
        name = info(node).holds
        actual, level = self.run.integers[name], self._level(node)
        expected = _rounded(level, node, self.reference)
        unit = self.units.get(info(node).unit)
        plan_kernel = str(unit.kernel) if unit is not None and unit.kernel is not None else ""
        row = UnitAgreement(
            unit=name,
            op="quantize" if unit is None else unit.op,
            kernel=plan_kernel or self.run.made_by[name],
            count=expected.numel(),
            differing=expected.numel(),
            ties=0,
            max_difference=-1,
            limit=limit_of(unit, self.reference.plan),
        )
        if actual.shape != expected.shape:
            return row
        difference = (actual.to(torch.int32) - expected.to(torch.int32)).abs()
        largest = int(difference.max()) if difference.numel() else 0
        ties = int(((level - level.floor() - 0.5).abs() < _TIE).sum())
        return replace(row, differing=int(torch.count_nonzero(difference)), ties=ties, max_difference=largest)

    def _level(self, node: fx.Node) -> Tensor:
        """``x * (1/scale)`` of a quantize node, in float64 where the unit's operators allow."""
        value, scale = node.args[0], node.args[1]
        assert isinstance(value, fx.Node) and isinstance(scale, fx.Node)
        inverse = 1.0 / get_tensor(self.reference, str(scale.target)).to(torch.float32)
        if info(node).unit not in self.units:  # a border: float32 in, as the kernel gets it
            return self._evaluate(value, torch.float32) * inverse
        try:
            return self._evaluate(value, torch.float64) * inverse.to(torch.float64)
        except (RuntimeError, NotImplementedError):
            return self._evaluate(value, torch.float32) * inverse

    def _evaluate(self, root: fx.Node, dtype: torch.dtype) -> Tensor:
        """Run the backward slice of ``root`` up to the nearest integers and floats of the run."""
        known: dict[fx.Node, Any] = {}
        pending = [root]
        while pending:
            node = pending[-1]
            if node not in known and self._is_given(node):
                known[node] = self._given(node, dtype)
            missing = [source for source in node.all_input_nodes if source not in known]
            if node not in known and missing:
                pending += missing
                continue
            pending.pop()
            if node not in known:
                known[node] = self._call(node, known, dtype)
        result: Tensor = known[root]
        return result

    def _is_given(self, node: fx.Node) -> bool:
        if node.target is quantize:
            return info(node).holds in self.run.integers
        return node.op == "get_attr" or (node.name in self.run.floats and info(node).unit not in self.units)

    def _given(self, node: fx.Node, dtype: torch.dtype) -> Any:
        if node.target is quantize:
            return self.run.integers[info(node).holds]
        if node.op == "get_attr":
            return _cast(get_tensor(self.reference, str(node.target)), dtype)
        return _cast(self.run.floats[node.name], dtype)

    def _call(self, node: fx.Node, known: Mapping[fx.Node, Any], dtype: torch.dtype) -> Any:
        args = fx.node.map_arg(node.args, lambda source: known[source])
        kwargs = dict(fx.node.map_arg(dict(node.kwargs), lambda source: known[source]))
        if node.target is dequantize:
            kwargs["dtype"] = dtype
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "call_module":
            return self.reference.get_submodule(str(node.target))(*args, **kwargs)
        assert callable(node.target), f"{node.name}: {node.op} is not a value of the quantized run"
        return node.target(*args, **kwargs)


def _rounded(level: Tensor, node: fx.Node, reference: ReferenceModel) -> Tensor:
    """The integers of a quantize node: round half to even, then the zero point, saturating."""
    zero_point, low, high, dtype = node.args[2:6]
    assert isinstance(zero_point, fx.Node) and isinstance(dtype, torch.dtype)
    assert isinstance(low, int) and isinstance(high, int)
    return torch.clamp(torch.round(level) + get_tensor(reference, str(zero_point.target)), low, high).to(dtype)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(_cast(item, dtype) for item in value)
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
