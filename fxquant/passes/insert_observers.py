"""Put observers where the plan says that ranges are observed.

Before::

    %conv1 = conv2d(%x, %w);  %relu = relu(%conv1)

After::

    %conv1 = conv2d(%x, %w);  %relu = relu(%conv1);  %relu_observer = int8_range_observers.relu(%relu, ...)

Observers return their input, so the observed model computes what the float model computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from fxquant.fusion.rule import TRANSPOSED, WEIGHTED, spatial_rank
from fxquant.ir import records
from fxquant.ir.containers import INPUT_STATISTICS, RANGE_OBSERVERS, RECURRENT_OBSERVERS, WEIGHT_OBSERVERS
from fxquant.ir.edit import copy_graph, holder_of, put_module
from fxquant.ir.meta import NodeInfo, info, set_info
from fxquant.ir.quant_plan import QuantPlan, Unit
from fxquant.ir.recurrent import recurrence_of
from fxquant.ir.stages import CapturedModel, FakeQuantizedModel, ObservedModel, with_state
from fxquant.observers.attached import AttachedObserver
from fxquant.observers.input_statistics import InputStatistics, statistics_for
from fxquant.observers.recurrent import RecurrentObserver
from fxquant.ops import catalogue

MADE_BY = "insert_observers"


def insert_observers(
    captured: CapturedModel, plan: QuantPlan, qconfigs: dict[str, Any], modules: Mapping[str, nn.Module]
) -> ObservedModel:
    """Build the observed model.

    Args:
        captured: the float model; shares its parameters with the result.
        plan: its plan.
        qconfigs: QConfig of each unit by name.
        modules: observed standalone and custom modules by path; they take the place of the float ones.

    Returns:
        A model with children ``int8_range_observers``, ``int8_weight_observers`` and ``int8_input_statistics``.
    """
    graph, mapping = copy_graph(captured.graph)
    by_name = {node.name: node for node in mapping.values()}
    root = holder_of(captured, captured.state.preserved)
    for path, module in modules.items():
        put_module(root, path, module)
    activation, means, weights = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
    for item in plan.classes:
        if item.is_observed:
            activation[item.name] = AttachedObserver(qconfigs[item.configured_by].activation())
            for source in item.sources:
                _observe(graph, by_name[source], f"{RANGE_OBSERVERS}.{item.name}")
    for unit in plan.units:
        if unit.mode or (unit.op in WEIGHTED and unit.output):
            weights[unit.name] = qconfigs[unit.name].weight()
        if unit.op in WEIGHTED and unit.output:
            means[unit.name] = _statistics_for(by_name[unit.anchor], unit)
            _record_statistics(graph, by_name[unit.inputs[0].source], unit)
    for name, children in (
        (RANGE_OBSERVERS, activation),
        (RECURRENT_OBSERVERS, _observe_recurrent(graph, plan, qconfigs, captured)),
        (INPUT_STATISTICS, means),
        (WEIGHT_OBSERVERS, weights),
    ):
        root.add_module(name, children)
    observed = ObservedModel(root, graph, "ObservedModel", state=with_state(captured, plan=plan))
    observed.add_module(WEIGHT_OBSERVERS, weights)
    return observed


def _statistics_for(anchor: fx.Node, unit: Unit) -> InputStatistics:
    bound, rank = catalogue.arguments(anchor, catalogue.row_of(anchor)), spatial_rank(unit.op)
    weight = info(bound["weight"]).tensor
    if unit.op in TRANSPOSED or weight is None:
        return InputStatistics(-1 - rank)
    return statistics_for(rank, weight.shape, bound.get("groups", 1), bound.get("dilation", 1))


def _observe(graph: fx.Graph, node: fx.Node, path: str) -> None:
    origin = info(node).origin
    with graph.inserting_after(node):
        made = graph.create_node(
            "call_module", path, (node, node.name, origin.module_path, origin.source), {}, f"{node.name}_observer"
        )
    set_info(made, NodeInfo(origin=origin, origins=info(node).origins, made_by=MADE_BY))


def _record_statistics(graph: fx.Graph, source: fx.Node, unit: Unit) -> None:
    with graph.inserting_after(source):
        made = graph.create_node(
            "call_module", f"{INPUT_STATISTICS}.{unit.name}", (source,), {}, f"{unit.name}_input_statistics"
        )
    set_info(made, NodeInfo(origin=info(source).origin, origins=info(source).origins, made_by=MADE_BY))


def _observe_recurrent(
    graph: fx.Graph, plan: QuantPlan, qconfigs: dict[str, Any], captured: CapturedModel
) -> nn.ModuleDict:
    """Observers of the recurrent layers on ranges known before, called after them with what they are called with."""
    observers, anchors = nn.ModuleDict(), {unit.anchor: unit for unit in plan.units if unit.mode == "static"}
    for node in [node for node in graph.nodes if node.name in anchors]:
        unit, origin = anchors[node.name], info(node).origin
        module = captured.get_submodule(str(node.target))
        recurrence, spoken_of = recurrence_of(module), (node.name, origin.module_path, origin.source)
        observers[unit.name] = RecurrentObserver(recurrence, qconfigs[unit.name].activation, spoken_of)
        with graph.inserting_after(node):
            path = f"{RECURRENT_OBSERVERS}.{unit.name}"
            made = graph.create_node("call_module", path, node.args, dict(node.kwargs), f"{node.name}_observer")
        with graph.inserting_before(made):
            names = [name for name, _ in module.named_parameters(recurse=False)]
            weights = {name: graph.get_attr(f"{node.target}.{name}") for name in names}
        made.update_kwarg("weights", weights)
        for added in (made, *weights.values()):
            set_info(added, NodeInfo(origin=origin, origins=info(node).origins, made_by=MADE_BY))
    return observers


def remove_observers(observed: ObservedModel) -> fx.Graph:
    """The captured graph again: a copy of the observed one without what ``insert_observers`` made.

    Fake quantization changes more than it adds; there the graph is the one that was kept.
    """
    if isinstance(observed, FakeQuantizedModel):
        return records.to_graph(observed.state.captured)
    graph, _ = copy_graph(observed.graph, lambda node: info(node).made_by != MADE_BY)
    return graph
