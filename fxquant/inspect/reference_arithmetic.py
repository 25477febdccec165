"""What the reference says that single units make of given integers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map_only

from fxquant.inspect.record_values import RecordedValues
from fxquant.ir.edit import get_tensor
from fxquant.ir.meta import info
from fxquant.ir.qdq import dequantize
from fxquant.ir.stages import ReferenceModel


class ReferenceArithmetic:
    """Evaluates single values of a reference model on the integers and floats of a run.

    Args:
        reference: the model.
        given: the values to start from.

    Attributes:
        units: by name, of those that make integers.
        results: what units with floats on both sides make, with the name it has in the run.
    """

    def __init__(self, reference: ReferenceModel, given: RecordedValues) -> None:
        self.reference, self.given = reference, given
        self.units = {unit.name: unit for unit in reference.plan.units if unit.output}
        by_mode = {unit.name for unit in reference.plan.units if unit.mode}
        last = {info(node).unit: node for node in reference.graph.nodes if info(node).unit in by_mode}
        self.results = {node: name for name, node in last.items()}  # a batch norm after it is in its weights
        self._judged = ""

    def level(self, node: fx.Node, dtype: torch.dtype) -> Tensor:
        """``x * (1/scale)`` of a quantize node.

        Args:
            node: an ``fxquant.quantize`` node of the reference graph.
            dtype: what to compute in. Borders take float32, as the kernel gets it, and so do units with an operator
                that torch has for nothing wider.
        """
        value, scale = node.args[0], node.args[1]
        assert isinstance(value, fx.Node) and isinstance(scale, fx.Node)
        inverse = 1.0 / get_tensor(self.reference, str(scale.target)).to(torch.float32)
        if info(node).unit not in self.units or dtype == torch.float32:
            return self._evaluate(value, torch.float32) * inverse
        try:
            return self._evaluate(value, dtype) * inverse.to(dtype)
        except (RuntimeError, NotImplementedError):
            return self._evaluate(value, torch.float32) * inverse

    def rounded(self, level: Tensor, node: fx.Node) -> Tensor:
        """The integers of a quantize node: round half to even, then the zero point, saturating."""
        zero_point, low, high, dtype = node.args[2:6]
        assert isinstance(zero_point, fx.Node) and isinstance(dtype, torch.dtype)
        assert isinstance(low, int) and isinstance(high, int)
        return torch.clamp(torch.round(level) + get_tensor(self.reference, str(zero_point.target)), low, high).to(dtype)

    def float_value(self, node: fx.Node) -> Any:
        """What a unit with floats on both sides makes of the floats of the run, in float32.

        Args:
            node: the last node of the unit in the reference graph.
        """
        self._judged = info(node).unit
        try:
            return self._evaluate(node, torch.float32)
        finally:
            self._judged = ""

    def value(self, node: fx.Node) -> Any:
        """What a node of the reference graph makes in float32, from the integers and floats of the run."""
        return self._evaluate(node, torch.float32)

    def _evaluate(self, root: fx.Node, dtype: torch.dtype) -> Tensor:
        """Run the backward slice of ``root`` up to the nearest integers and floats of the run."""
        known: dict[fx.Node, Any] = {}
        pending = [root]
        while pending:
            node = pending[-1]
            if node not in known and self._is_given(node):
                known[node] = self._take(node, dtype)
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
        if info(node).holds:
            return info(node).holds in self.given.integers
        computed = info(node).unit in self.units or (info(node).unit == self._judged != "")
        return node.op == "get_attr" or (self._name(node) in self.given.floats and not computed)

    def _name(self, node: fx.Node) -> str:
        return self.results.get(node, node.name)

    def _take(self, node: fx.Node, dtype: torch.dtype) -> Any:
        if info(node).holds:
            return self.given.integers[info(node).holds]
        if node.op == "get_attr":
            return _cast(get_tensor(self.reference, str(node.target)), dtype)
        return _cast(self.given.floats[self._name(node)], dtype)

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


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Floats in another precision; packed sequences and the other structures that torch knows stay what they are."""
    return tree_map_only(Tensor, lambda item: item.to(dtype) if item.is_floating_point() else item, value)
