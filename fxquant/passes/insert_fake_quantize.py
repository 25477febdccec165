"""Put fake quantization where the plan says that integers will be: quantization-aware training.

Before::

    %conv1 = conv2d(%x, %w);  %bn = call_module[bn](%conv1);  %relu = relu(%bn)

After::

    %x_rounded = int8_range_observers.x(%x);  %norm = get_attr[bn]
    %w_rounded = int8_weight_observers.relu(%w, None, None, %norm, %range)      # weight, bias, call bn?
    %conv1 = conv2d(%x_rounded, %w_rounded[0], %w_rounded[1]);  %bn = normalize(%conv1, %norm, %w_rounded[3])
    %relu = relu(%bn);  %relu_rounded = int8_range_observers.relu(%relu)

Where the reference model quantizes, there is a rounding here, with the same arithmetic.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from fxquant.capture.training_mode import TrainingOnly
from fxquant.fusion.rule import TRANSPOSED, WEIGHTED
from fxquant.ir.ancestors import with_ancestors
from fxquant.ir.containers import BATCH_NORMS, MODES, RANGE_OBSERVERS, WEIGHT_OBSERVERS
from fxquant.ir.edit import adopt, copy_graph, evaluate_constant, holder_of, output_node, put_module
from fxquant.ir.meta import NodeInfo, info, set_info
from fxquant.ir.quant_plan import STANDALONE, QuantPlan, RangeClass, Unit
from fxquant.ir.stages import CapturedModel, FakeQuantizedModel, with_state
from fxquant.observers.attached_fake_quantize import AttachedFakeQuantize
from fxquant.observers.fake_quantize import FakeQuantize, FixedQParamsFakeQuantize, as_fake_quantize
from fxquant.observers.fixed import FixedQParamsObserver
from fxquant.ops import catalogue
from fxquant.ops.opdef import Moves
from fxquant.passes.fold_weights import fold_weights
from fxquant.passes.follow_mode import ModeFollower
from fxquant.passes.normalize import BatchNormSwitch, NormCall, normalize
from fxquant.passes.trained_tables import TrainedTable, round_arriving, round_constant, round_half
from fxquant.passes.trained_weights import TrainedWeight
from fxquant.plan.borders import output_elements

MADE_BY = "insert_fake_quantize"

# Their results are some of the inputs' numbers, or zero, which every range has.
_PICKS = frozenset(
    (
        "relu",
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "adaptive_max_pool1d",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
    )
)
# They share their input's range, and compute new numbers all the same in some of their modes.
_COMPUTES = frozenset(("interpolate", "upsample", "grid_sample", "pad"))


def insert_fake_quantize(
    captured: CapturedModel,
    plan: QuantPlan,
    qconfigs: dict[str, Any],
    modules: Mapping[str, nn.Module],
    original: nn.Module,
) -> FakeQuantizedModel:
    """Build the model to train.

    Args:
        captured: the float model; shares its parameters with the result.
        plan: its plan.
        qconfigs: QConfig of each unit by name.
        modules: standalone modules in training, and observed custom modules, by path.
        original: has the parameters and modules that only training needs.

    Returns:
        A model with children ``int8_range_observers``, ``int8_weight_observers``, ``int8_batch_norms``, ``int8_modes``.
    """
    with torch.inference_mode(False):
        inserter = _Inserter(captured, plan, qconfigs, modules)
        for item in captured.state.by_mode:
            if isinstance(item, TrainingOnly) and item.record.op in ("get_attr", "call_module"):
                adopt(inserter.root, str(item.record.target), original)
        return inserter.build()


class _Inserter:
    """Changes a copy of the captured graph.

    Attributes:
        nodes: nodes of the copy by name. rounded: nodes that hold a value rounded to a range, by node and class.
    """

    def __init__(
        self, captured: CapturedModel, plan: QuantPlan, qconfigs: dict[str, Any], modules: Mapping[str, nn.Module]
    ) -> None:
        self.captured, self.plan, self.qconfigs = captured, plan, qconfigs
        self.graph, _ = copy_graph(captured.graph)
        self.nodes = {node.name: node for node in self.graph.nodes}
        self.originals = {node.name: node for node in captured.graph.nodes}
        self.root = holder_of(captured, captured.state.preserved)
        for path, module in modules.items():
            put_module(self.root, path, module)
        self.class_of = {name: item for item in plan.classes for name in item.members}
        self.integers = {*plan.quantized_inputs, *(unit.name for unit in plan.units if unit.output)}
        self.aliases = {unit.name: unit.inputs[0].source for unit in plan.units if _is_identity(unit)}
        self.rounded: dict[tuple[fx.Node, str], fx.Node] = {}
        self.weights, self.norms = nn.ModuleDict(), nn.ModuleDict()

    def build(self) -> FakeQuantizedModel:
        """Every range, then unit by unit."""
        ranges = {item.name: self._range(item) for item in self.plan.classes if not item.given_by}
        follower = ModeFollower(self.graph)
        follower.follow(self.captured.state.by_mode)
        self.aliases |= follower.aliases
        modes = nn.ModuleDict(follower.modules)
        for unit in self.plan.units:
            self._train_unit(unit)
        for name in self.plan.quantized_inputs:
            if not self.class_of[name].given_by:
                self._round_everywhere(self.nodes[name], self.class_of[name])
        self._round_outputs()
        children = ((RANGE_OBSERVERS, nn.ModuleDict(ranges)), (WEIGHT_OBSERVERS, self.weights))
        for name, child in (*children, (BATCH_NORMS, self.norms), (MODES, modes)):
            self.root.add_module(name, child)
        state = with_state(self.captured, plan=self.plan)
        return FakeQuantizedModel(self.root, self.graph, "FakeQuantizedModel", state=state)

    def _range(self, item: RangeClass) -> AttachedFakeQuantize:
        if item.fixed is not None:
            fixed = FixedQParamsObserver.with_args(scale=item.fixed.scale, zero_point=item.fixed.zero_point)
            fake: FakeQuantize = FixedQParamsFakeQuantize(fixed)
        else:
            fake = as_fake_quantize(self.qconfigs[item.configured_by].activation())
        return AttachedFakeQuantize(fake, item.spec.quant_min, item.spec.quant_max, item.sources)

    # -- units ------------------------------------------------------------------------------------

    def _train_unit(self, unit: Unit) -> None:
        anchor = self.nodes[unit.anchor]
        standalone = unit.kernel is not None and unit.kernel.convention == STANDALONE
        for name in unit.nodes:
            self._round_inputs(unit, self.nodes[name])
        if unit.op in WEIGHTED and (unit.output or unit.mode):
            self._train_weight(unit, anchor)
        elif unit.mode.startswith("weights"):
            self._train_table(unit, anchor)
        elif unit.output and unit.kernel is not None and unit.kernel.integer_constants:
            self._round_constants(unit, anchor)
        if unit.op == "batch_norm" and anchor.op == "call_module":
            self.norms[unit.name] = BatchNormSwitch()
            anchor.args = (anchor.args[0], self._norm(anchor, anchor))
            anchor.target = f"{BATCH_NORMS}.{unit.name}"
        last = self.nodes[unit.name]
        whole = not isinstance(info(last).value, (tuple, list))
        if unit.output and whole and not standalone and not self._keeps_integers(unit):
            self._round_everywhere(last, self.class_of[unit.name])

    def _keeps_integers(self, unit: Unit) -> bool:
        """Whether the result's numbers are some of the inputs', rounded already."""
        row = catalogue.by_name(unit.op)
        element = unit.kernel is not None and unit.kernel.convention == "element"
        exact = row is not None and (isinstance(row.output, Moves) or row.name in _PICKS) and row.name not in _COMPUTES
        if not element and (not exact or (row is not None and row.fills) or unit.roles):
            return False
        return all(edge.range_class == unit.output and edge.source in self.integers for edge in unit.inputs)

    def _round_inputs(self, unit: Unit, node: fx.Node) -> None:
        """Floats that the unit reads as integers are rounded for it; other readers keep them as they are."""
        borders = {edge.source: edge.range_class for edge in unit.inputs if edge.range_class}
        if unit.kernel is not None and unit.kernel.convention == STANDALONE:
            borders = {name: item for name, item in borders.items() if not self._range_of(item).given_by}

        def change(source: fx.Node) -> fx.Node:
            name = self._resolve(source.name)
            if name not in borders or name in self.integers or source.name in unit.nodes:
                return source
            if isinstance(info(source).value, (tuple, list)):
                return source
            return self._round(source, self._range_of(borders[name]), name)

        node.args, node.kwargs = fx.node.map_arg(node.args, change), fx.node.map_arg(dict(node.kwargs), change)

    def _resolve(self, name: str) -> str:
        while name in self.aliases:
            name = self.aliases[name]
        return name

    def _range_of(self, name: str) -> RangeClass:
        return self.plan.range_class(name)

    def _round(self, node: fx.Node, item: RangeClass, place: str) -> fx.Node:
        """The value of ``node`` rounded to a range, once for all who read it so."""
        if (node, item.name) not in self.rounded:
            origin = info(node).origin
            args = (node, place, origin.module_path, origin.source)
            with self.graph.inserting_after(node):
                made = self.graph.create_node(
                    "call_module", f"{RANGE_OBSERVERS}.{item.name}", args, {}, f"{node.name}_rounded"
                )
            self._describe(made, node)
            self.rounded[node, item.name] = made
        return self.rounded[node, item.name]

    def _round_everywhere(self, node: fx.Node, item: RangeClass) -> None:
        """All readers of ``node`` read it rounded."""
        readers = list(node.users)
        made = self._round(node, item, node.name)
        for reader in readers:
            if reader is not made:
                reader.replace_input_with(node, made)

    def _round_outputs(self) -> None:
        """Floats that leave as integers."""
        output = output_node(self.graph)
        returned: Any = output.args[0]
        elements = list(output_elements(returned))
        for index in self.plan.quantized_outputs:
            node = elements[index]
            if isinstance(node, fx.Node) and self._resolve(node.name) in self.class_of and not self._is_rounded(node):
                elements[index] = self._round(node, self.class_of[self._resolve(node.name)], node.name)
        if self.plan.quantized_outputs:
            output.args = (_like(returned, elements),)

    def _is_rounded(self, node: fx.Node) -> bool:
        return node in self.rounded.values() or self._resolve(node.name) in self.integers

    # -- weights ----------------------------------------------------------------------------------

    def _train_weight(self, unit: Unit, anchor: fx.Node) -> None:
        bound = catalogue.arguments(anchor, catalogue.row_of(anchor))
        if unit.mode == "float16":
            self._replace(anchor, weight=self._call_before(anchor, round_half, (bound["weight"],), f"{unit.name}_half"))
            return
        fake = as_fake_quantize(self.qconfigs[unit.name].weight())
        groups, transposed = int(bound.get("groups", 1)), unit.op in TRANSPOSED
        trained = self.weights[unit.name] = TrainedWeight(unit, fake, groups, transposed)
        trained.start(fold_weights(unit, self.originals, self.captured).rows)
        norms = [unit.role(role) for role in ("batch_norm_before", "batch_norm")]
        first = self.nodes[unit.nodes[0]]
        before, after = (None if name is None else self._norm(self.nodes[name], first) for name in norms)
        source = None if unit.mode else self._range_module(unit.inputs[0].range_class, first)
        for needed in (bound["weight"], bound["bias"]):
            _move_before(needed, first)
        args = (bound["weight"], bound["bias"], before, after, source)
        with self.graph.inserting_before(first):
            made = self.graph.create_node(
                "call_module", f"{WEIGHT_OBSERVERS}.{unit.name}", args, {}, f"{unit.name}_weight_rounded"
            )
        parts = [
            self._call_before(first, operator.getitem, (made, index), f"{made.name}_{index}") for index in range(4)
        ]
        for node in (made, *parts):
            self._describe(node, anchor)
        self._replace(anchor, weight=parts[0], bias=parts[1])
        for name, norm, called in zip(norms, (before, after), parts[2:], strict=True):
            if name is not None:
                node = self.nodes[name]
                node.args, node.kwargs = (node.args[0], norm, called), {}
                node.op, node.target = "call_function", normalize
        if unit.mode == "dynamic":
            given = catalogue.arguments(anchor, catalogue.row_of(anchor))["input"]
            self._replace(anchor, input=self._call_before(anchor, round_arriving, (given,), f"{unit.name}_arriving"))

    def _norm(self, node: fx.Node, first: fx.Node) -> fx.Node:
        """The batch norm that ``node`` calls, as a value."""
        if node.op == "call_module":
            with self.graph.inserting_before(first):
                made = self.graph.create_node("get_attr", str(node.target), name=f"{node.name}_module")
            self._describe(made, node)
            return made
        bound = catalogue.arguments(node, catalogue.row_of(node))
        names = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        args = tuple(bound[name] for name in names)
        for needed in args:
            _move_before(needed, first)
        return self._call_before(first, NormCall, args, f"{node.name}_call")

    def _range_module(self, name: str, first: fx.Node) -> fx.Node | None:
        if self._range_of(name).given_by:
            return None
        with self.graph.inserting_before(first):
            made = self.graph.create_node("get_attr", f"{RANGE_OBSERVERS}.{name}", name=f"{first.name}_range")
        set_info(made, NodeInfo(made_by=MADE_BY))
        return made

    def _train_table(self, unit: Unit, anchor: fx.Node) -> None:
        fake = as_fake_quantize(self.qconfigs[unit.name].weight())
        trained = self.weights[unit.name] = TrainedTable(fake, unit.mode, unit.name)
        original = self.originals[unit.anchor]
        trained.start(evaluate_constant(catalogue.arguments(original, catalogue.row_of(original))["weight"], self.root))
        table = catalogue.arguments(anchor, catalogue.row_of(anchor))["weight"]
        with self.graph.inserting_before(anchor):
            made = self.graph.create_node(
                "call_module", f"{WEIGHT_OBSERVERS}.{unit.name}", (table,), {}, f"{unit.name}_table_rounded"
            )
        self._describe(made, anchor)
        self._replace(anchor, weight=made)

    def _round_constants(self, unit: Unit, anchor: fx.Node) -> None:
        """Tensor constants among the activations (``x + self.offset``) are stored in a range of their own."""
        row = catalogue.row_of(anchor)
        bound, sources = catalogue.arguments(anchor, row), {edge.source for edge in unit.inputs}
        for name in row.activations:
            value = bound[name]
            known = isinstance(value, fx.Node) and (
                self._resolve(value.name) in sources or value in self.rounded.values()
            )
            if isinstance(value, fx.Node) and not known and info(value).is_float_tensor:
                made = self._call_before(anchor, round_constant, (value,), f"{unit.name}_{name}_rounded")
                self._replace(anchor, **{name: made})

    # -- edits ------------------------------------------------------------------------------------

    def _replace(self, anchor: fx.Node, **changes: Any) -> None:
        catalogue.replace_arguments(anchor, changes)

    def _call_before(self, place: fx.Node, target: Any, args: tuple[Any, ...], name: str) -> fx.Node:
        with self.graph.inserting_before(place):
            made = self.graph.create_node("call_function", target, args, {}, name)
        self._describe(made, place)
        return made

    def _describe(self, made: fx.Node, like: fx.Node) -> None:
        known = info(like)
        set_info(made, NodeInfo(value=known.value, origin=known.origin, origins=known.origins, made_by=MADE_BY))


def _like(returned: Any, elements: list[Any]) -> Any:
    """What a model returns, with other elements."""
    if not isinstance(returned, (tuple, list)):
        return elements[0]
    return type(returned)(*elements) if hasattr(returned, "_fields") else type(returned)(elements)


def _is_identity(unit: Unit) -> bool:
    return unit.kernel is not None and unit.kernel.convention == "identity"


def _move_before(value: Any, place: fx.Node) -> None:
    """Move a constant, what it is computed from, and what writes into that before it is read, in front of ``place``."""
    if not isinstance(value, fx.Node) or value is place or _is_before(value, place):
        return
    between, node = list[fx.Node](), place.next
    while node is not value:
        between.append(node)
        node = node.next
    wanted = set(with_ancestors([value]))
    for node in reversed(between):
        if {item.name for item in wanted}.intersection(info(node).mutates):
            wanted |= set(with_ancestors([node]))
    for node in [item for item in (*between, value) if item in wanted]:
        place.prepend(node)


def _is_before(node: fx.Node, place: fx.Node) -> bool:
    return node < place
