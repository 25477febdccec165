"""The plan as data: who is quantized, with which range, by which kernel, and why.

Frozen dataclasses of plain Python values: a plan can be printed, compared, pickled and tested without
running anything. Everything here is keyed by the names of the captured graph's nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

# Calling conventions of module calls that are units of their own, whatever the backend.
STANDALONE = "standalone"
CUSTOM = "custom"


@dataclass(frozen=True)
class TensorSpec:
    """How one tensor is stored as integers.

    Attributes:
        dtype: ``torch.uint8`` or ``torch.int8``.
        quant_min: smallest integer used, quant_max: largest.
        axis: channel axis for per-channel parameters, None for per-tensor.
        dynamic: whether scale and zero point are taken from each tensor when it arrives.
    """

    dtype: torch.dtype
    quant_min: int
    quant_max: int
    axis: int | None = None
    dynamic: bool = False


@dataclass(frozen=True)
class FixedRange:
    """A scale and zero point known before any data, such as 1/256 and 0 for sigmoid."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class RangeClass:
    """Values that share one scale and zero point.

    Attributes:
        name: identifier, also the prefix of its buffers in a state_dict.
        members: value names.
        sources: the members at which the range is observed: those that produce new numbers.
        spec: dtype and integer range.
        configured_by: unit whose qconfig supplies the observer, "" for the global qconfig.
        fixed: the parameters when they need no observation.
        given_by: the value whose parameters come from outside the plan, "" when there is none: a quantized input or
            the result of a standalone module.
        note: the policy applied on conflicting wishes, "" when there was none.
        headroom: factor by which a range that a search over a histogram found is widened.
        noise: magnitudes up to this are rounding noise of the float computations that make the values.
    """

    name: str
    members: tuple[str, ...]
    sources: tuple[str, ...]
    spec: TensorSpec
    configured_by: str
    fixed: FixedRange | None = None
    given_by: str = ""
    note: str = ""
    headroom: float = 1.0
    noise: float = 0.0

    @property
    def is_observed(self) -> bool:
        """Whether calibration decides the parameters."""
        return self.fixed is None and not self.given_by


@dataclass(frozen=True)
class Edge:
    """One activation operand of a unit.

    Attributes:
        operand: name in the op's signature.
        source: value name.
        range_class: the class whose integers are read, "" when the operand is read as float.
    """

    operand: str
    source: str
    range_class: str = ""


@dataclass(frozen=True)
class KernelChoice:
    """The kernel that runs a unit.

    Attributes:
        convention: how the backend calls it, for example ``conv`` or ``same_function``.
        function: qualified name of the function, for example ``quantized.conv2d``.
        engine: the quantized engine it is packed for, "" when that does not matter.
        weight_limit: what the kernel's accumulation demands of int8 weights: ``none``, ``channels``,
            ``taps_then_channels`` (pair limits) or ``half`` (all weights in -63..63).
        weight_granularity: ``channel`` for kernels that take a scale per output channel, ``tensor`` for one scale.
        rate: share of output elements that may be one quantum away from the reference; 0 for exact kernels.
        integer_constants: whether tensor constants among the activations become integers with a range of their own.
        own_range: whether the output's range is its own although operators of this kind share their input's.
        probed: whether kernels of this kind are wrong for some shapes, so that it is tried on random data at convert.
        note: what else to know of it, one clause.
    """

    convention: str
    function: str
    engine: str = ""
    weight_limit: str = "none"
    weight_granularity: str = "channel"
    rate: float = 0.0
    integer_constants: bool = False
    own_range: bool = False
    probed: bool = False
    note: str = ""

    def __str__(self) -> str:
        limit = {"none": "", "half": ", weights within ±63"}.get(self.weight_limit, ", weight pairs within ±128")
        limit += ", per-tensor weights" if self.weight_granularity == "tensor" else ""
        return self.function + (f" [{self.engine}{limit}]" if self.engine else "")


@dataclass(frozen=True)
class Unit:
    """Nodes that run as one.

    Attributes:
        name: the node whose value the unit produces.
        op: catalogue name of the anchor.
        anchor: the node that computes.
        nodes: all members in execution order.
        roles: (role, node name) of members with a special part: batch_norm, batch_norm_before, clip, pad.
        outcome: ``int8``, ``step``, ``float`` or ``free``.
        inputs: activation operands.
        output: range class of the output, "" when it is float.
        kernel: None for float operations.
        fallbacks: kernels to run it with instead when that one turns out to be wrong, the best first.
        reason: why this outcome.
        config: the configuration entry that decided, such as ``set_global``.
        macs: multiply-accumulates on the example inputs.
        mode: of units that read and return floats and have a kernel all the same: ``dynamic`` (int8 weights, the input
            is quantized when it arrives), ``static`` (of recurrent layers: int8 weights, ranges inside known from
            calibration), ``weights`` or ``weights4`` (integer weights alone, of 8 or 4 bits) or ``float16`` (weights in
            half precision); "" for all others.
    """

    name: str
    op: str
    anchor: str
    nodes: tuple[str, ...]
    roles: tuple[tuple[str, str], ...] = ()
    outcome: str = "float"
    inputs: tuple[Edge, ...] = ()
    output: str = ""
    kernel: KernelChoice | None = None
    fallbacks: tuple[KernelChoice, ...] = ()
    reason: str = ""
    config: str = ""
    macs: int = 0
    mode: str = ""

    def role(self, name: str) -> str | None:
        """Node name that plays ``name``, or None."""
        return dict(self.roles).get(name)


@dataclass(frozen=True)
class FusionRecord:
    """What a fusion rule did or refused.

    Attributes:
        rule: name of the rule.
        nodes: captured node names it looked at.
        reason: "" when it fired, else why not.
    """

    rule: str
    nodes: tuple[str, ...]
    reason: str = ""

    @property
    def fired(self) -> bool:
        """Whether the rule was applied."""
        return not self.reason


@dataclass(frozen=True)
class QuantPlan:
    """The whole plan.

    Attributes:
        backend: name of the backend, engine: its engine.
        units: in execution order.
        classes: range classes by first use.
        fusions: fusion decisions, fired and refused.
        notes: things the user may want to know, one sentence each.
        backend_config: name of the BackendConfig that the plan keeps to, None when there is none.
        quantized_inputs: placeholders that hold integers in converted models, by name.
        quantized_outputs: positions of returned elements that are integers in converted models.
    """

    backend: str
    engine: str
    units: tuple[Unit, ...] = ()
    classes: tuple[RangeClass, ...] = ()
    fusions: tuple[FusionRecord, ...] = ()
    notes: tuple[str, ...] = ()
    backend_config: str | None = None
    quantized_inputs: tuple[str, ...] = ()
    quantized_outputs: tuple[int, ...] = ()
    _unit_by_node: dict[str, Unit] = field(init=False, repr=False, compare=False, default_factory=dict)
    _class_by_name: dict[str, RangeClass] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._unit_by_node.update({node: unit for unit in self.units for node in unit.nodes})
        self._class_by_name.update({item.name: item for item in self.classes})

    def unit_of(self, node: str) -> Unit:
        """The unit that node ``node`` belongs to."""
        return self._unit_by_node[node]

    def range_class(self, name: str) -> RangeClass:
        """The range class called ``name``."""
        return self._class_by_name[name]
