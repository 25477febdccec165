"""One side of a graph diff: a graph, the model that holds its tensors, and where its nodes came from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import fx, nn

from fxquant.capture.recurrent_root import with_recurrent_child
from fxquant.errors import FxquantError
from fxquant.fusion.fuse_units import constant_nodes
from fxquant.ir import records
from fxquant.ir.meta import NodeInfo, info
from fxquant.ir.quant_plan import QuantPlan, Unit
from fxquant.ir.stages import StageModule
from fxquant.passes.parts_writer import MADE_BY as DECOMPOSED

INTEGER_STAGES = ("reference", "quantized")
PLANNED_STAGES = ("observed", "fake_quantized", *INTEGER_STAGES)
# Passes whose nodes watch values, or round them in training, without computing anything else.
_WATCHING = ("insert_observers", "insert_fake_quantize")

Captured = tuple[records.NodeRecord, ...]


@dataclass(frozen=True)
class Side:
    """A stage seen by the diff.

    Attributes:
        stage: ``float`` for the user's module, else the stage's name.
        model: holds parameters and buffers.
        graph: its nodes; the captured graph for the user's module.
        plan: the plan, None before there is one.
        captured: names of the captured nodes.
    """

    stage: str
    model: nn.Module
    graph: fx.Graph
    plan: QuantPlan | None
    captured: tuple[str, ...]

    @cached_property
    def operand_names(self) -> frozenset[str]:
        """Nodes computed from parameters and buffers alone: operands of the others, not operators.

        In training weights are rounded by modules, which are operands as well.
        """
        found = set(constant_nodes(self.graph))
        for node in self.graph.nodes:
            sources = [source.name for source in node.all_input_nodes]
            if is_watching(info(node)) and sources and found.issuperset(sources):
                found.add(node.name)
        return frozenset(found)

    @cached_property
    def units(self) -> dict[str, Unit]:
        """Planned unit by captured node name; empty without a plan."""
        return {} if self.plan is None else {name: unit for unit in self.plan.units for name in unit.nodes}

    @cached_property
    def operators(self) -> tuple[fx.Node, ...]:
        """Nodes that compute what the captured model computes, inputs and output included, in order."""
        return tuple(node for node in self.shown if not is_added(info(node)))

    @cached_property
    def added(self) -> tuple[fx.Node, ...]:
        """Nodes that a pass added for its own purposes: observers, quantize, dequantize."""
        return tuple(node for node in self.shown if is_added(info(node)))

    def range_note(self, value: str) -> str:
        """Where the range of a value came from, ``""`` before freeze."""
        if self.plan is None or not isinstance(self.model, StageModule):
            return ""
        name = next((item.name for item in self.plan.classes if value in item.members), "")
        return self.model.state.range_notes.get(name, "")

    @cached_property
    def shown(self) -> dict[fx.Node, None]:
        """All nodes but operands, in order."""
        return {node: None for node in self.graph.nodes if node.name not in self.operand_names}

    def unit_of(self, node: fx.Node) -> Unit | None:
        """The planned unit that a node of this side belongs to."""
        names = (info(node).unit, *origins(node))
        return next((self.units[name] for name in names if name in self.units), None)


def is_added(facts: NodeInfo) -> bool:
    """Whether a pass made the node without it standing for an operator of the model."""
    return facts.made_by != "capture" and not facts.op


def is_watching(facts: NodeInfo) -> bool:
    """Whether the node is an observer, or rounds in training."""
    return is_added(facts) and facts.made_by in _WATCHING


def origins(node: fx.Node) -> tuple[str, ...]:
    """Captured nodes that ``node`` stands for."""
    return info(node).origins or (node.name,)


def sides_of(before: Any, after: Any) -> tuple[Side, Side]:
    """Both sides of a diff.

    Args:
        before, after: stages of one model; at most one of them may be the user's own module.

    Raises:
        FxquantError: neither is a stage, or they do not come from the same model.
    """
    stages = [item for item in (before, after) if isinstance(item, StageModule)]
    if not stages:
        raise FxquantError(
            f"neither {type(before).__name__} nor {type(after).__name__} carries a captured graph",
            remedy="pass at least one model from prepare_fx, convert_fx, fuse_fx or quantize",
        )
    made = _side(before, stages[-1]), _side(after, stages[0])
    if len({_undivided(stage) for stage in stages}) > 1:
        raise FxquantError(
            "the two models were captured from different graphs, so their nodes cannot be aligned",
            remedy="compare stages of one model, prepared with inputs that take the same path through it",
        )
    return made


def _undivided(stage: StageModule) -> tuple[str, ...]:
    """Names of the captured nodes; of an attention that was decomposed, the one that has the name of the whole."""
    return tuple(record.name for record in stage.captured_nodes if record.info.made_by != DECOMPOSED)


def _side(model: Any, other: StageModule) -> Side:
    if isinstance(model, StageModule):
        names = tuple(record.name for record in model.captured_nodes)
        return Side(model.stage, model, model.graph, model.state.plan, names)
    model = with_recurrent_child(model)
    paths = tuple(name for name, _ in model.named_modules(remove_duplicate=False)) if _is_module(model) else None
    if paths != other.state.module_paths:
        raise FxquantError(
            f"the {type(model).__name__} is not the model that the {other.stage} model was made from",
            remedy="pass the float module that was given to prepare_fx, fuse_fx or quantize",
        )
    return Side(
        "float", model, records.to_graph(other.state.captured), None, tuple(r.name for r in other.state.captured)
    )


def _is_module(model: Any) -> bool:
    return isinstance(model, nn.Module)
