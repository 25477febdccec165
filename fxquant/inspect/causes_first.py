"""The order of layers by harm, causes before what only passes them on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Row = TypeVar("Row")


def causes_first(
    rows: list[Row],
    level: Callable[[Row], float],
    reads: Callable[[Row, Row], bool],
    width: Callable[[Row], float],
    harmful_below: float,
) -> tuple[Row, ...]:
    """Sort rows by level; a layer comes before one that reads it and does about as much harm.

    A huge channel is as bad for the function after a convolution as for the convolution itself, which makes it.

    Args:
        rows: in any order.
        level: of a row, the lowest is the worst.
        reads: whether the first row reads what the second makes.
        width: how much better than a row what it reads may be and still be the cause.
        harmful_below: rows from this level on are as good as others, and simply sorted.
    """
    waiting = sorted(rows, key=level)
    found: list[Row] = []
    while waiting:
        cause, seen = waiting[0], [waiting[0]]
        while level(waiting[0]) < harmful_below:
            limit = level(cause) + width(cause)
            others = [row for row in waiting if row not in seen and level(row) <= limit and reads(cause, row)]
            if not others:
                break
            cause = others[0]
            seen.append(cause)
        found.append(cause)
        waiting = [row for row in waiting if row is not cause]
    return tuple(found)
