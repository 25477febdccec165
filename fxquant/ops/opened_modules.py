"""Which row a class of torch.nn computes. Capture opens most of them, so rows do not list them.

The rule: the row is named like the class, underscores and a trailing ``1d``, ``2d``, ``3d`` aside
(``nn.AdaptiveAvgPool2d`` is ``adaptive_avg_pool2d``, ``nn.InstanceNorm2d`` is ``instance_norm``).
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from torch import nn

from fxquant.ops import catalogue
from fxquant.ops.opdef import OpDef

_PADS = ("ConstantPad", "ZeroPad", "ReflectionPad", "ReplicationPad", "CircularPad")
_NAMED_OTHERWISE = {
    **{f"{name}{rank}d": "pad" for name in _PADS for rank in (1, 2, 3)},
    "ReLU6": "hardtanh",  # what its forward calls
    **dict.fromkeys(("Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d"), "interpolate"),
}
# Of the same name as a row, and something else: tensor.unfold slides over one dimension, nn.Unfold over images.
_SOMETHING_ELSE = frozenset(("Unfold", "Fold"))


def row_of_module(kind: type) -> OpDef | None:
    """The row that modules of exactly this class compute; None for classes outside torch.nn and unknown ones."""
    if not kind.__module__.startswith("torch.nn.") or not issubclass(kind, nn.Module):
        return None
    kept = catalogue.by_module(kind)
    if kept is not None or kind.__name__ in _SOMETHING_ELSE:
        return kept
    if kind.__name__ in _NAMED_OTHERWISE:
        return catalogue.by_name(_NAMED_OTHERWISE[kind.__name__])
    written = kind.__name__.lower()
    return _by_short_name().get(written) or _by_short_name().get(re.sub(r"[123]d$", "", written))


def row_of_element(element: Any) -> OpDef | None:
    """The row that a module class, a function or a method name stands for."""
    if isinstance(element, type):
        return row_of_module(element)
    return catalogue.by_method(element) if isinstance(element, str) else catalogue.by_function(element)


@cache
def _by_short_name() -> dict[str, OpDef]:
    return {row.name.replace("_", ""): row for row in catalogue.all_rows()}
