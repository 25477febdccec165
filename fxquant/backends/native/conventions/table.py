"""All calling conventions by name, read from the family modules."""

from __future__ import annotations

from fxquant.backends.native.convention import Convention
from fxquant.backends.native.conventions import (
    averaging,
    choice,
    dynamic,
    elementwise,
    embedding,
    joining,
    lookup,
    matrix,
    movement,
    norm,
    recurrent,
    reduction,
    transposed,
    weighted,
)
from fxquant.ops.opdef import Kernel
from fxquant.plan.backend import Call

CONVENTIONS: dict[str, Convention] = {
    **weighted.CONVENTIONS,
    **dynamic.CONVENTIONS,
    **recurrent.CONVENTIONS,
    **embedding.CONVENTIONS,
    **transposed.CONVENTIONS,
    **elementwise.CONVENTIONS,
    **lookup.CONVENTIONS,
    **matrix.CONVENTIONS,
    **movement.CONVENTIONS,
    **joining.CONVENTIONS,
    **norm.CONVENTIONS,
    **averaging.CONVENTIONS,
    **choice.CONVENTIONS,
    **reduction.CONVENTIONS,
}

_CHOICES = {**movement.CHOICES, **averaging.CHOICES, **choice.CHOICES}


def kernel_of(call: Call, backend: str) -> Kernel:
    """The kernel that a call's row names; some rows have several, by what the call asks for.

    Args:
        call: the call.
        backend: name of the backend.
    """
    named = call.row.kernels[backend]
    choose = _CHOICES.get(named.convention)
    return named if choose is None else choose(call)
