"""What must hold after every stage."""

from __future__ import annotations

from typing import TypeVar

from fxquant.errors import FxquantError
from fxquant.ir.check_graph import check_graph
from fxquant.ir.meta import info
from fxquant.ir.stages import StageModule

_Stage = TypeVar("_Stage", bound=StageModule)


def verify(model: _Stage) -> _Stage:
    """Check a stage and return it.

    Raises:
        FxquantError: the graph is malformed, or refers to what the plan does not know; always a bug of ours.
    """
    wrong = check_graph(model)
    if wrong:
        raise _bug(model, wrong)
    if model.state.plan is not None:
        planned = {unit.name for unit in model.state.plan.units}
        for node in model.graph.nodes:
            if info(node).unit and info(node).unit not in planned:
                raise _bug(model, f"node {node.name} belongs to unknown unit {info(node).unit}")
    return model


def _bug(model: StageModule, what: str) -> FxquantError:
    return FxquantError(
        f"internal error in the {model.stage} graph: {what}",
        remedy="please report it with the model; keep the module float with set_module_name(..., None) meanwhile",
    )
