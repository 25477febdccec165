"""Units with floats on both sides and a kernel all the same: ranges taken at run time, or weights alone quantized."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from fxquant.fusion.rule import UnitDraft
from fxquant.ir.meta import info
from fxquant.plan.assign_domains import Candidate
from fxquant.plan.backend import Backend, Call, Refusal

MODES = {
    "dynamic": "its input is quantized when it arrives",
    "static": "one loop over the steps, with a range for what each gate gets",
    "weights": "its weights alone are integers",
    "weights4": "its weights alone are integers, of 4 bits",
    "float16": "its weights alone are float16",
}
"""What each mode does, as ``explain`` says it."""

ASKED = {
    "dynamic": "ranges taken at run time",
    "weights": "integer weights alone",
    "weights4": "integer weights alone",
    "float16": "weights in float16",
}
"""What a qconfig of each mode asks for."""


def classify_dynamic(
    draft: UnitDraft, call: Call, mode: str, backend: Backend, floating: Callable[[str], Candidate]
) -> Candidate:
    """Classify a unit whose row has a kernel for the mode that its qconfig asks for.

    Args:
        draft: the unit.
        call: its anchor, as the backend sees it.
        mode: as in ``Unit``.
        backend: the backend planned for.
        floating: makes the candidate that stays float, given the reason.
    """
    kernels = backend.kernels_for(call, mode)
    if isinstance(kernels, Refusal):
        return floating(kernels.reason)
    kernel, *others = kernels
    return Candidate(draft, call.row, "dynamic", _activations(call), kernel, fallbacks=tuple(others), mode=mode)


def _activations(call: Call) -> tuple[tuple[str, fx.Node], ...]:
    """The floating activations, by operand; positions and lengths are no activations."""
    found: list[tuple[str, fx.Node]] = []
    for name in call.row.activations:
        given = call.bound[name]
        for item in given if isinstance(given, (tuple, list)) else (given,):
            if isinstance(item, fx.Node) and info(item).is_float_tensor and not call.is_constant(item):
                found.append((name, item))
    return tuple(found)
