"""Kernels of single modules, made without a graph around them: the same choice and the same kernels as in a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from fxquant.backends.native.backend import NativeBackend
from fxquant.backends.native.convention import UnitView
from fxquant.backends.native.conventions.table import CONVENTIONS
from fxquant.backends.native.kernels.arriving import ArrivingClip
from fxquant.ir.meta import TensorMeta
from fxquant.ir.quant_plan import KernelChoice, Unit
from fxquant.ops.opdef import Bound, OpDef
from fxquant.plan.backend import Call, Refusal


@dataclass(frozen=True)
class WeightedCall:
    """The operator that a module with a weight calls.

    Attributes:
        row: its catalogue row.
        bound: arguments by name; nodes for the input, the weight and the bias.
        weight: facts of the weight.
    """

    row: OpDef
    bound: Bound
    weight: TensorMeta

    @staticmethod
    def of(row: OpDef, weight: Tensor, bias: Tensor | None, geometry: dict[str, Any]) -> WeightedCall:
        """Bind a call of ``row`` with constant weight and bias.

        Args:
            row: of a convolution, transposed convolution or linear.
            weight: as the operator takes it.
            bias: or None.
            geometry: its other arguments.
        """
        graph = fx.Graph()
        source, node = graph.placeholder("input"), graph.create_node("get_attr", "weight")
        offset = None if bias is None else graph.create_node("get_attr", "bias")
        return WeightedCall(row, row.bind((source, node, offset), geometry), TensorMeta.of(weight))

    def kernels(self, engine: str, mode: str = "") -> tuple[KernelChoice, ...] | Refusal:
        """The kernels that may run it, the best first.

        Args:
            engine: that the model is for.
            mode: as in ``Unit``.
        """
        call = Call(self.row, self.bound, None, self.weight, frozenset(("weight", "bias")))
        return NativeBackend(engine).kernels_for(call, mode)


class ModuleView(UnitView):
    """What a kernel maker reads, of a module instead of a unit in a graph.

    Args:
        unit: stands for the module.
        call: its operator.
        tensors: weight, its scale and zero point, and bias.
        output: scale float32 [] and zero point int64 [] of the output; None for float outputs.
    """

    def __init__(
        self, unit: Unit, call: WeightedCall, tensors: dict[str, Tensor | None], output: tuple[Tensor, Tensor] | None
    ) -> None:
        self.unit, self.members, self.previous = unit, [], None
        self.lowered = lambda argument: argument
        self._call, self._tensors, self._output = call, tensors, output

    @property
    def row(self) -> OpDef:
        """Catalogue row of the module's operator."""
        return self._call.row

    @property
    def bound(self) -> Bound:
        """The operator's arguments by name."""
        return dict(self._call.bound)

    @property
    def scale(self) -> Tensor:
        """float32 [], scale of the output."""
        assert self._output is not None
        return self._output[0]

    @property
    def zero_point(self) -> Tensor:
        """int64 [], zero point of the output."""
        assert self._output is not None
        return self._output[1]

    def tensor(self, key: str) -> Tensor | None:
        """Weight, its parameters or the bias; None where there is none."""
        return self._tensors.get(key)


def make_module_kernel(
    unit: Unit, call: WeightedCall, tensors: dict[str, Tensor | None], output: tuple[Tensor, Tensor] | None, relu: bool
) -> nn.Module:
    """The kernel module of a weighted module.

    Args:
        unit: stands for the module; its kernel says which one.
        call: its operator.
        tensors: its weight, scales and zero points of that, and bias.
        output: scale and zero point of the output, None for float outputs.
        relu: whether a relu follows; kernels that cannot clip are followed by one that does nothing else.
    """
    assert unit.kernel is not None
    convention = CONVENTIONS[unit.kernel.convention]
    made = convention.make(ModuleView(unit, call, tensors, output), relu and convention.clips_at_zero)
    assert made.module is not None
    if relu and not convention.clips_at_zero:
        return nn.Sequential(made.module, ArrivingClip(0.0, None))
    return made.module
