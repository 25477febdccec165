"""Observing a recurrent layer: what each of its matrices and each of its gates gets, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.ir.recurrent import Recurrent
from fxquant.numerics.recurrent import Recurrence
from fxquant.observers.attached import AttachedObserver


class RecurrentObserver(Recurrent):
    """Computes a layer beside the user's module and observes it; the module's own result is what others read.

    Args:
        recurrence: what it is.
        build: makes an observer.
        origin: node, module path and source line of the call, for messages.
    """

    def __init__(self, recurrence: Recurrence, build: Callable[[], nn.Module], origin: tuple[str, str, str]) -> None:
        super().__init__(recurrence)
        self.places = nn.ModuleDict({place: AttachedObserver(build()) for place in recurrence.places})
        self.origin = origin
        self._weights: Mapping[str, Tensor] = {}

    def forward(self, input: Any, hx: Any = None, weights: Mapping[str, Tensor] | None = None) -> None:
        """Observe one call.

        Args:
            input, hx: as of the module.
            weights: float parameters of the module by name.
        """
        self._weights = weights or {}
        with torch.no_grad():
            super().forward(input, hx)
        self._weights = {}

    def product(self, name: str, x: Tensor) -> Tensor:
        """Multiply in float."""
        seen: Tensor = self.places[f"{name}_input"](x, *self.origin)
        return F.linear(seen, self._weights[name], self._weights.get(name.replace("weight", "bias")))

    def gate(self, name: str, x: Tensor) -> Tensor:
        """What a gate gets, as it is."""
        seen: Tensor = self.places[name](x, *self.origin)
        return seen
