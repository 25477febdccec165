"""Run-time checks that a captured graph carries."""

from __future__ import annotations

from typing import Any

from fxquant.errors import FxquantError


def require_equal(value: Any, expected: Any, name: str) -> None:
    """Raise when a flag that was built into the graph arrives with another value.

    Raises:
        FxquantError: ``value`` differs from what the example had.
    """
    if value is not expected and value != expected:
        raise FxquantError(
            f"input {name!r} was {expected!r} when the model was captured and is {value!r} now",
            remedy="prepare the model again with the new value in example_inputs",
        )
