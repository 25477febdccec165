"""What a calling convention is: which calls it takes, and the kernel node it makes of a planned unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from fxquant.ir.containers import KERNELS, RANGES
from fxquant.ir.edit import get_tensor
from fxquant.ir.quant_plan import Unit
from fxquant.ir.stages import ReferenceModel
from fxquant.ops import catalogue
from fxquant.ops.opdef import Bound, OpDef
from fxquant.plan.backend import Call


@dataclass
class Made:
    """One node to add: a kernel module, or a function or method target.

    Attributes:
        args, kwargs: lowered arguments.
        module: kernel module, or None.
        target: function or method name when there is no module.
        suffix: appended to the unit's name.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    module: nn.Module | None = None
    target: Any = None
    suffix: str = ""


@dataclass
class UnitView:
    """What a kernel maker reads.

    Attributes:
        unit: the planned unit, anchor: its computing node in the reference graph.
        members: all its nodes in the reference graph.
        reference: the model that holds weights and parameters.
        lowered: maps an argument of a reference node to its lowered form.
        previous: the node made before, for a clip that follows a kernel.
    """

    unit: Unit
    anchor: fx.Node
    members: list[fx.Node]
    reference: ReferenceModel
    lowered: Callable[[Any], Any]
    previous: fx.Node | None = None

    @property
    def row(self) -> OpDef:
        """Catalogue row of the anchor."""
        return catalogue.row_of(self.anchor)

    @property
    def bound(self) -> Bound:
        """The anchor's arguments by name, in the reference graph."""
        return catalogue.arguments(self.anchor, self.row)

    @property
    def scale(self) -> Tensor:
        """float32 [], scale of the output."""
        return get_tensor(self.reference, f"{RANGES}.{self.unit.output}.scale")

    @property
    def zero_point(self) -> Tensor:
        """int64 [], zero point of the output."""
        return get_tensor(self.reference, f"{RANGES}.{self.unit.output}.zero_point")

    def input_qparams(self, index: int = 0) -> tuple[Tensor, Tensor]:
        """Scale float32 [] and zero point int64 [] of the unit's ``index``-th activation."""
        prefix = f"{RANGES}.{self.unit.inputs[index].range_class}"
        return get_tensor(self.reference, f"{prefix}.scale"), get_tensor(self.reference, f"{prefix}.zero_point")

    def member(self, role: str) -> fx.Node | None:
        """The member node that plays a role."""
        name = self.unit.role(role)
        return next((node for node in self.members if node.name == name), None)

    def tensor(self, key: str) -> Tensor | None:
        """A buffer of this unit, None when there is none."""
        try:
            return get_tensor(self.reference, f"{KERNELS}.{self.unit.name}.{key}")
        except AttributeError:
            return None

    @property
    def input(self) -> Any:
        """The lowered first activation; for a folded pad, the pad's input."""
        pad = self.member("pad")
        first = self.bound[self.row.activations[0]] if pad is None else pad.args[0]
        return self.lowered(first)


def accept(call: Call) -> str:
    """Take every call."""
    return ""


@dataclass(frozen=True)
class Convention:
    """How a group of kernels is called.

    Attributes:
        make: makes the kernel of a unit; its second argument says whether the kernel is to clip at 0.
        check: why a call cannot be made this way, "" when it can.
        clips_at_zero: whether the kernel can do an absorbed relu itself.
        engine: for kernels that pack weights: the engine and the weight limit, from the call and the plan's engine.
        rate: share of output elements that may be a quantum away from the reference, 0 for exact kernels.
    """

    make: Callable[[UnitView, bool], Made]
    check: Callable[[Call], str] = accept
    clips_at_zero: bool = False
    engine: Callable[[Call, str], tuple[str, str]] | None = None
    rate: float = 0.0
