"""Item assignment as a function, so that a graph without in-place writes can hold it."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def set_item(input: Tensor, index: Any, value: Any) -> Tensor:
    """Return a copy of ``input`` with ``input[index] = value`` done to it.

    Args:
        input: any shape and dtype; not changed.
        index: whatever ``input[index]`` accepts.
        value: tensor or scalar, broadcast to ``input[index]``.
    """
    out = input.clone()
    out[index] = value
    return out
