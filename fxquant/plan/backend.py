"""What the planner asks of a backend. It reads constraints; it never runs a kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import fx, nn

from fxquant.ir.meta import TensorMeta
from fxquant.ir.quant_plan import KernelChoice, TensorSpec
from fxquant.ops.opdef import Bound, OpDef


@dataclass(frozen=True)
class Call:
    """One operator call, as a backend sees it.

    Attributes:
        row: the catalogue row.
        bound: arguments by name; nodes where they are computed.
        output: facts of the result, None when it is no single tensor.
        weight: facts of the weight, None for ops without.
        constants: names of nodes that are constants of the model.
        module: the module that is called, None for functions and methods.
        pad: amounts of a folded ``F.pad``, empty when there is none.
        nodes: the calls that are made: one, or those of an expression of which ``bound`` holds the last.
    """

    row: OpDef
    bound: Bound
    output: TensorMeta | None
    weight: TensorMeta | None
    constants: frozenset[str]
    module: nn.Module | None = None
    pad: tuple[int, ...] = ()
    nodes: tuple[fx.Node, ...] = ()

    def is_constant(self, value: object) -> bool:
        """Whether an argument is a number or a constant of the model."""
        if isinstance(value, fx.Node):
            return value.name in self.constants
        return isinstance(value, (int, float))


@dataclass(frozen=True)
class Refusal:
    """Why a backend has no kernel for a call."""

    reason: str


class Backend(Protocol):
    """A family of kernels.

    Attributes:
        name: ``native``.
        engine: the engine weights are packed for.
    """

    @property
    def name(self) -> str: ...

    @property
    def engine(self) -> str: ...

    def kernels_for(self, call: Call, mode: str = "") -> tuple[KernelChoice, ...] | Refusal:
        """The kernels that may run a call, the best first, with what each demands of the weights.

        Args:
            call: the call.
            mode: as in ``Unit``: "" for kernels on integers.
        """
        ...

    def kernel_with_sum(self, kernel: KernelChoice, output: TensorMeta) -> KernelChoice | None:
        """The kernel that adds another value to what ``kernel`` makes before it rounds; None when there is none.

        Args:
            kernel: chosen for the unit alone.
            output: facts of the sum.
        """
        ...

    def sets_range(self, kernel: KernelChoice) -> bool:
        """Whether the kernel of an operator that shares its input's range could write another range as well."""
        ...

    def refuses_spec(self, spec: TensorSpec) -> str:
        """Why activations of this kind cannot be stored, "" when they can."""
        ...
