"""Fold batch norms into the weights of a float model; what ``fuse_fx`` returns.

Before::

    %y = conv2d(%x, %conv.weight);  %z = bn(%y);  %r = relu(%z)

After::

    %y = conv2d(%x, %conv.folded_weight, %conv.folded_bias);  %r = relu(%y)
"""

from __future__ import annotations

from torch import fx

from fxquant.fusion.rule import UnitDraft
from fxquant.ir.edit import copy_graph, holder_of, set_tensor
from fxquant.ir.meta import info, update_info
from fxquant.ir.quant_plan import FusionRecord, QuantPlan, Unit
from fxquant.ir.stages import CapturedModel, FusedModel, with_state
from fxquant.ops import catalogue
from fxquant.passes.fold_weights import fold_weights


def fold_units(captured: CapturedModel, drafts: list[UnitDraft], fusions: tuple[FusionRecord, ...]) -> FusedModel:
    """Build the fused model.

    Args:
        captured: the float model; not changed.
        drafts: its units.
        fusions: what the rules did; kept for ``explain`` and ``graph_diff``.
    """
    graph, mapping = copy_graph(captured.graph)
    root, originals = holder_of(captured, captured.state.preserved), {node.name: node for node in captured.graph.nodes}
    units = tuple(_unit(draft) for draft in drafts)
    origins: dict[str, tuple[str, ...]] = {}
    for draft, unit in zip(drafts, units, strict=True):
        norms = [mapping[draft.roles[role]] for role in ("batch_norm_before", "batch_norm") if role in draft.roles]
        if not norms:
            continue
        folded = fold_weights(unit, originals, captured)
        assert folded.bias is not None  # folding always makes one
        anchor, made = mapping[draft.anchor], {}
        for key, tensor in (("weight", folded.as_called(folded.rows)), ("bias", folded.bias)):
            path = f"{unit.name}.folded_{key}"
            set_tensor(root, path, tensor)
            origins[path] = folded.origins
            with graph.inserting_before(anchor):
                made[key] = graph.get_attr(path)
        catalogue.replace_arguments(anchor, dict(made))
        for norm in norms:
            _take_over(anchor, norm)
    _erase_unread_attributes(graph)
    state = with_state(captured, plan=QuantPlan("float", "", units, (), fusions), key_origins=origins)
    return FusedModel(root, graph, "FusedModel", state=state)


def _take_over(anchor: fx.Node, norm: fx.Node) -> None:
    """Remove a batch norm before or after ``anchor``, whose weights compute it now."""
    before = norm in anchor.all_input_nodes
    norm.replace_all_uses_with(norm.all_input_nodes[0] if before else anchor)
    update_info(anchor, origins=(*info(anchor).origins, *info(norm).origins), made_by="fold_batch_norm")
    norm.graph.erase_node(norm)


def _unit(draft: UnitDraft) -> Unit:
    return Unit(
        name=draft.last.name,
        op=info(draft.anchor).op,
        anchor=draft.anchor.name,
        nodes=tuple(node.name for node in draft.nodes),
        roles=tuple((role, node.name) for role, node in draft.roles.items()),
    )


def _erase_unread_attributes(graph: fx.Graph) -> None:
    for node in reversed(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
