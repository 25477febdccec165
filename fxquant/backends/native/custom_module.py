"""Lowering custom modules: the user's own class computes on quantized tensors."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx, nn

from fxquant.backends.native.convention import Made, UnitView
from fxquant.backends.native.kernels.border import Take
from fxquant.errors import ConfigError, ConvertError


def make_custom(view: UnitView, classes: Mapping[type[nn.Module], type[nn.Module]]) -> Iterator[Made]:
    """Yield the quantized module and what makes sure that its result is read rightly; ``view.previous`` is set between.

    Args:
        view: the unit.
        classes: observed class to quantized class.

    Raises:
        ConfigError: no class is given for the observed one. ConvertError: ``from_observed`` failed.
    """
    observed = view.reference.get_submodule(str(view.anchor.target))
    title = type(observed).__name__
    if type(observed) not in classes:
        raise ConfigError(
            f"custom module {view.unit.name} is a {title}, and no quantized class is given for it",
            op=view.unit.op,
            remedy=f"ConvertCustomConfig().set_observed_to_quantized_mapping({title}, ...), or convert_to_reference_fx",
        )
    yield Made(
        fx.node.map_arg(view.anchor.args, view.lowered),
        fx.node.map_arg(dict(view.anchor.kwargs), view.lowered),
        module=_quantized(observed, classes[type(observed)], view.unit.name),
    )
    yield Made((view.previous,), module=Take(view.scale, view.zero_point, view.unit.name), suffix="_taken")


def _quantized(observed: nn.Module, kind: Any, name: str) -> nn.Module:
    try:
        made = kind.from_observed(copy.deepcopy(observed))
    except Exception as error:
        raise ConvertError(
            f"{kind.__name__}.from_observed failed for {name}: {error}",
            op=name,
            remedy="it gets the observed module, with its output's observer as activation_post_process",
        ) from error
    if not isinstance(made, nn.Module):
        raise ConvertError(
            f"{kind.__name__}.from_observed returned a {type(made).__name__}", op=name, remedy="return a module"
        )
    for module in made.modules():
        module.__dict__.pop("qconfig", None)
    return made.eval()
