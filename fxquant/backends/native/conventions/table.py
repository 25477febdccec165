"""All calling conventions by name, read from the family modules."""

from __future__ import annotations

from fxquant.backends.native.convention import Convention
from fxquant.backends.native.conventions import averaging, elementwise, lookup, movement, weighted

CONVENTIONS: dict[str, Convention] = {
    **weighted.CONVENTIONS,
    **elementwise.CONVENTIONS,
    **lookup.CONVENTIONS,
    **movement.CONVENTIONS,
    **averaging.CONVENTIONS,
}
