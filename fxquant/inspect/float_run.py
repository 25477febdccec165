"""The float model, run step by step along the captured graph, beside what quantized weights would make of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from fxquant.errors import FxquantError
from fxquant.fusion.rule import TRANSPOSED, WEIGHTED, spatial_rank
from fxquant.inspect.exact_kernels import ExactKernels
from fxquant.ir import records
from fxquant.ir.containers import KERNELS
from fxquant.ir.quant_plan import Unit
from fxquant.ir.stages import StageModule
from fxquant.numerics.affine import dequantize
from fxquant.ops import catalogue


@dataclass(frozen=True)
class ExactValue:
    """What the float model computes.

    Attributes:
        value: the value.
        weighted: the same from exact inputs with the quantized weights of its unit, for the first half of the batch;
            None for units without.
        kernel: what the unit's kernel makes of exact inputs, of units with floats on both sides; None for others.
    """

    value: Any
    weighted: Tensor | None = None
    kernel: Any = None


def last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """For every node, the nodes whose values nobody reads after it."""
    ends: dict[fx.Node, list[fx.Node]] = {}
    seen: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        for source in (node, *node.all_input_nodes):
            if source not in seen:
                seen.add(source)
                ends.setdefault(node, []).append(source)
    return ends


def steps(interpreter: fx.Interpreter, inputs: list[Any]) -> Iterator[tuple[fx.Node, Any]]:
    """Run a graph node by node; values are dropped after their last use."""
    ends = last_uses(interpreter.graph)
    interpreter.env = {}
    interpreter.args_iter = iter(inputs)
    for node in interpreter.graph.nodes:
        value = interpreter.env[node] = interpreter.run_node(node)
        yield node, value
        for done in ends.get(node, ()):
            del interpreter.env[done]


class FloatRun(fx.Interpreter):
    """Runs the captured graph on the user's float model.

    Args:
        model: the float model.
        quantized: what was made of it: a reference or a quantized model.

    Raises:
        FxquantError: ``model`` lacks parameters that the captured graph reads.
    """

    def __init__(self, model: nn.Module, quantized: StageModule) -> None:
        graph = records.to_graph(quantized.state.captured)
        super().__init__(_Holder(), graph=graph, garbage_collect_values=False)
        self.float_model, self.quantized = model, quantized
        units = {unit.name: unit for unit in quantized.plan.units}
        self.weighted = {
            node: unit for unit in units.values() if unit.op in WEIGHTED and unit.output for node in unit.nodes
        }
        self.exact_kernels = ExactKernels(quantized)
        self.kernel_results: dict[str, Any] = {}
        self.tensors = {unit.anchor: _weights(quantized, unit) for unit in set(self.weighted.values())}
        self.local: dict[str, Any] = {}
        self.halved: dict[str, tuple[int, int]] = {}
        self.pending: dict[str, ExactValue] = {}
        self.running: Iterator[tuple[fx.Node, Any]] = iter(())

    def begin(self, inputs: list[Any]) -> None:
        """Start a batch; ``inputs`` in the order of the placeholders."""
        self.pending.clear()
        self.local.clear()
        self.halved.clear()
        self.kernel_results.clear()
        self.running = steps(self, inputs)

    def take(self, name: str, wanted: frozenset[str]) -> ExactValue | None:
        """The value called ``name``; runs as far as needed. Others that are ``wanted`` later are kept until then."""
        while name not in self.pending:
            found = next(self.running, None)
            if found is None:
                return None
            node, value = found
            if node.name in wanted:
                self.pending[node.name] = ExactValue(
                    value, self.local.get(node.name), self.kernel_results.pop(node.name, None)
                )
            unit = self.weighted.get(node.name)
            if unit is not None and unit.name == node.name:
                for member in unit.nodes:
                    self.local.pop(member, None)
        return self.pending.pop(name)

    def run_node(self, n: fx.Node) -> Any:
        """Execute ``n``, and once more with quantized weights when it belongs to a unit that has some."""
        unit = self.weighted.get(n.name)
        if unit is not None:
            self.local[n.name] = self._with_quantized_weights(n, unit)
        by_mode = self.exact_kernels.units.get(n.name)
        if by_mode is not None:
            known = {node.name: value for node, value in self.env.items()}
            self.kernel_results[by_mode.name] = self.exact_kernels.result(by_mode, known)
        return super().run_node(n)

    def _with_quantized_weights(self, n: fx.Node, unit: Unit) -> Any:
        """The node's value from exact inputs of its unit. Batch norms are in the weights already."""

        if unit.name not in self.halved:
            row = catalogue.row_of(n)
            self.halved[unit.name] = _halved(self.env.get(catalogue.arguments(n, row)[row.activations[0]]), unit)
        size, half = self.halved[unit.name]

        def read(node: fx.Node) -> Any:
            if node.name in unit.nodes:
                return self.local.get(node.name, self.env.get(node))
            value = self.env[node]
            whole = half < size and isinstance(value, Tensor) and value.dim() > 1 and len(value) == size
            return value[:half] if whole else value

        if n.name in (unit.role("batch_norm"), unit.role("batch_norm_before")):
            return read(n.all_input_nodes[0])
        if n.name == unit.anchor:
            bound = catalogue.arguments(n, catalogue.row_of(n))
            arguments = {key: fx.node.map_arg(value, read) for key, value in bound.items()}
            arguments |= self.tensors[unit.anchor]
            return n.target(**arguments)  # type: ignore[operator]
        args, kwargs = fx.node.map_arg(n.args, read), fx.node.map_arg(dict(n.kwargs), read)
        return getattr(self, n.op)(n.target, args, kwargs)

    def fetch_attr(self, target: str) -> Any:
        """A parameter, buffer or module of the float model; constants that capture added are the quantized model's."""
        for root in (self.float_model, self.quantized):
            found: Any = root
            try:
                for part in target.split("."):
                    found = getattr(found, part)
            except AttributeError:
                continue
            return found
        raise FxquantError(
            f"the float model has no {target}, which the quantized model was made from",
            remedy="pass the model that was given to prepare_fx or quantize",
        )

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a module of the float model."""
        return self.fetch_attr(str(target))(*args, **kwargs)


def _halved(given: Any, unit: Unit) -> tuple[int, int]:
    """Size of the first axis of a unit's input, and how much of it tells enough of its weights: half of a batch."""
    rank = spatial_rank(unit.op)
    if not isinstance(given, Tensor) or given.dim() < 2 or (rank and given.dim() != rank + 2):
        return 0, 0
    return len(given), (len(given) + 1) // 2


class _Holder(nn.Module):
    """Stands for the module of an interpreter that finds attributes itself."""


def _weights(model: StageModule, unit: Unit) -> Mapping[str, Tensor | None]:
    """Weight and bias of a unit as its kernel uses them, in float."""
    held = model.get_submodule(f"{KERNELS}.{unit.name}")
    tensors = {key: getattr(held, key, None) for key in ("weight", "weight_scale", "weight_zero_point", "bias")}
    scale, zero_point = tensors["weight_scale"], tensors["weight_zero_point"]
    assert tensors["weight"] is not None and scale is not None and zero_point is not None, unit.name
    axis = None if scale.dim() == 0 else int(unit.op in TRANSPOSED)
    weight = dequantize(tensors["weight"], scale, zero_point, axis)
    return {"weight": weight, "bias": tensors["bias"]}
