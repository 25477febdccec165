"""Make the observed form of custom modules, as the custom config maps their classes.

Before: ``layer: FloatLayer``. After: ``layer: ObservedLayer``, made by ``ObservedLayer.from_float(copy of layer)``; the
copy and its children carry the unit's QConfig as their attribute ``qconfig``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from fxquant.errors import ConfigError
from fxquant.ir.quant_plan import CUSTOM, QuantPlan
from fxquant.ir.stages import CapturedModel


def observe_custom_modules(
    captured: CapturedModel,
    plan: QuantPlan,
    qconfigs: Mapping[str, Any],
    classes: Mapping[type[nn.Module], type[nn.Module]],
) -> dict[str, nn.Module]:
    """Observed modules by path; one per module, however often it is called.

    Args:
        captured: the float model; not changed.
        plan: its plan.
        qconfigs: QConfig of each unit by name.
        classes: float class to observed class.

    Raises:
        ConfigError: ``from_float`` failed, or made no module.
    """
    calls: dict[str, fx.Node] = {node.name: node for node in captured.graph.nodes}
    made: dict[str, nn.Module] = {}
    for unit in plan.units:
        if unit.kernel is None or unit.kernel.convention != CUSTOM:
            continue
        path = str(calls[unit.anchor].target)
        if path not in made:
            module = captured.get_submodule(path)
            made[path] = _observed(module, path, qconfigs[unit.name], classes[type(module)])
    return made


def _observed(module: nn.Module, path: str, qconfig: Any, observed_class: Any) -> nn.Module:
    twin = copy.deepcopy(module)
    for child in twin.modules():
        child.qconfig = qconfig
    try:
        observed = observed_class.from_float(twin)
    except Exception as error:
        raise ConfigError(
            f"{observed_class.__name__}.from_float failed for {path}: {error}",
            module_path=path,
            remedy="from_float gets a copy of the float module, with its QConfig as attribute qconfig",
        ) from error
    if not isinstance(observed, nn.Module):
        raise ConfigError(
            f"{observed_class.__name__}.from_float returned a {type(observed).__name__}",
            module_path=path,
            remedy="return the observed module",
        )
    observed.qconfig = getattr(observed, "qconfig", qconfig)
    return observed.eval()
