"""From a planned unit to the nodes that run it: its kernel, and a clip where the range does not do the clipping."""

from __future__ import annotations

from collections.abc import Iterator

from fxquant.backends.native.convention import Made, UnitView
from fxquant.backends.native.conventions.table import CONVENTIONS
from fxquant.backends.native.kernels.elementwise import Clip
from fxquant.ops import catalogue

# A range may leave the clip by this share of itself and still count as inside: rounding of its scale.
_TOLERANCE = 1e-5


def make_kernel(view: UnitView) -> Iterator[Made]:
    """Yield the nodes that run a unit, in order; ``view.previous`` is set between them."""
    assert view.unit.kernel is not None
    convention = CONVENTIONS[view.unit.kernel.convention]
    bounds = None if convention.clips else _needed_clip(view)
    relu = convention.clips_at_zero and bounds == (0.0, None)
    yield convention.make(view, relu)
    if bounds is not None and not relu:
        yield Made((view.previous,), module=Clip(view.scale, view.zero_point, *bounds), suffix="_clip")


def _needed_clip(view: UnitView) -> tuple[float | None, float | None] | None:
    """The absorbed clip's bounds that the output's range does not already respect; None when it respects all."""
    clip = view.member("clip")
    if clip is None:
        return None
    row = catalogue.row_of(clip)
    assert row.clip is not None
    low, high = row.clip(catalogue.arguments(clip, row))
    scale, zero_point = float(view.scale), int(view.zero_point)
    lowest, highest = -zero_point * scale, (255 - zero_point) * scale
    margin = _TOLERANCE * (highest - lowest)
    low = None if low is None or lowest >= low - margin else low
    high = None if high is None or highest <= high + margin else high
    return None if low is None and high is None else (low, high)
