"""What tests of layers that repeat have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fxquant.capture.repeated_layers import RepeatedLayers


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Paths of layers that were recorded from others."""
    found: list[str] = []
    record = RepeatedLayers._record_again

    def noted(self: RepeatedLayers, known: Any, place: Any, given: Any) -> Any:
        result = record(self, known, place, given)
        found.append(place.path)
        return result

    monkeypatch.setattr(RepeatedLayers, "_record_again", noted)
    yield found
