"""What a calling convention is: which calls it takes, and the kernel node it makes of a planned unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from fxquant.backends.native.kernels.constant import Constant
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

    def constant(self, operand: str) -> Constant | None:
        """The integers of an operand that is a constant of the model, None when it is an activation."""
        integers, scale, zero_point = (self.tensor(f"{operand}{key}") for key in ("", "_scale", "_zero_point"))
        if integers is None or scale is None or zero_point is None:
            return None
        return Constant(integers, scale, zero_point)

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


def never(call: Call) -> bool:
    """Say no of every call."""
    return False


def always(call: Call) -> bool:
    """Say yes of every call."""
    return True


@dataclass(frozen=True)
class Packing:
    """The engine that a weight may be packed for, and what its kernel demands.

    Attributes:
        engine: torch's name of it.
        weight_limit, weight_granularity, probed, note: as in ``KernelChoice``.
    """

    engine: str
    weight_limit: str = "none"
    weight_granularity: str = "channel"
    probed: bool = False
    note: str = ""


@dataclass(frozen=True)
class Convention:
    """How a group of kernels is called.

    Attributes:
        make: makes the kernel of a unit; its second argument says whether the kernel is to clip at 0.
        check: why a call cannot be made this way, "" when it can.
        clips_at_zero: whether the kernel can do an absorbed relu itself.
        clips: whether the kernel does every absorbed clip itself.
        own_range: whether the output's range is its own although the operator's rows share their input's.
        packings: for kernels that pack weights: how they may be packed for a call, given the plan's engine; the best
            first, empty when no engine's kernel is known to be right.
        integer_constants: whether tensor constants among the activations become integers with a range of their own.
        rate: share of output elements that may be a quantum away from the reference, 0 for exact kernels.
    """

    make: Callable[[UnitView, bool], Made]
    check: Callable[[Call], str] = accept
    clips_at_zero: bool = False
    clips: bool = False
    own_range: Callable[[Call], bool] = never
    packings: Callable[[Call, str], tuple[Packing, ...]] | None = None
    integer_constants: bool = False
    rate: float = 0.0
