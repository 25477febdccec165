"""What quantization-aware training cannot do yet is said when a model is prepared."""

from __future__ import annotations

from torch import fx

from fxquant.errors import NotYetError
from fxquant.ir.meta import info
from fxquant.ir.quant_plan import QuantPlan
from fxquant.ops.recurrent import RECURRENT


def require_trainable(plan: QuantPlan, graph: fx.Graph) -> None:
    """Refuse recurrent layers that have a qconfig.

    Args:
        plan: of the model.
        graph: the captured graph.

    Raises:
        NotYetError: naming the layers.
    """
    origins = {node.name: info(node).origin for node in graph.nodes}
    found = [unit for unit in plan.units if unit.op in RECURRENT and not unit.reason.startswith("excluded")]
    if not found:
        return
    paths = [origins[unit.anchor].module_path for unit in found]
    raise NotYetError(
        f"recurrent layers cannot be trained quantized yet: {', '.join(paths)}",
        op=found[0].op,
        module_path=paths[0],
        source=origins[found[0].anchor].source,
        remedy=f"train them in float: qconfig_mapping.set_module_name({paths[0]!r}, None)",
    )
