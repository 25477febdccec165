"""Values of a quantized or reference model as it runs, one by one, in float, with the grid they lie on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.inspect.error_sums import Grid
from fxquant.inspect.float_run import steps
from fxquant.ir.edit import get_tensor
from fxquant.ir.meta import info
from fxquant.ir.qdq import quantize
from fxquant.ir.stages import StageModule


@dataclass(frozen=True)
class RunValue:
    """One value as it runs.

    Attributes:
        name: of the captured value it is.
        value: float32, any shape.
        grid: of values held in integers, None for floats.
    """

    name: str
    value: Tensor
    grid: Grid | None


def matched_nodes(model: StageModule) -> dict[fx.Node, str]:
    """Nodes whose values the captured graph computes too, with their names there.

    A value that is held in integers counts in that form, and where several kernels make it, the last one's result.
    """
    floats = {unit.name for unit in model.plan.units if not unit.output}
    found = {node.name: node for node in model.graph.nodes if node.name in floats and info(node).unit == node.name}
    found |= {info(node).holds: node for node in model.graph.nodes if info(node).holds}
    return {node: name for name, node in found.items()}


def run_values(model: StageModule, matched: dict[fx.Node, str], inputs: list[Any]) -> Iterator[RunValue]:
    """Run ``model`` on ``inputs`` (in the order of its placeholders); memory for the values is freed on the way."""
    for node, result in steps(fx.Interpreter(model, garbage_collect_values=False), inputs):
        value = main_tensor(result)
        if node in matched and isinstance(value, Tensor):
            grid = _grid(node, value, model)
            found = value if grid is None else _in_float(value, grid)
            if found.is_floating_point() and found.numel():
                yield RunValue(matched[node], found.to(torch.float32), grid)


def main_tensor(value: Any) -> Any:
    """A tensor as it is; of what a recurrent layer returns, its outputs."""
    return value[0] if isinstance(value, tuple) and value else value


def _grid(node: fx.Node, value: Tensor, model: StageModule) -> Grid | None:
    if value.is_quantized:
        return Grid(value.q_scale(), value.q_zero_point())
    if node.target is not quantize:
        return None
    scale, zero_point, low, high = node.args[1:5]
    assert isinstance(scale, fx.Node) and isinstance(zero_point, fx.Node)
    assert isinstance(low, int) and isinstance(high, int)
    known = [get_tensor(model, str(item.target)) for item in (scale, zero_point)]
    return Grid(float(known[0]), int(known[1]), low, high)


def _in_float(value: Tensor, grid: Grid) -> Tensor:
    if value.is_quantized:
        return value.contiguous().dequantize()  # in the layout of the float model's values, while they are bytes
    return (value.to(torch.float32) - grid.zero_point) * grid.scale
