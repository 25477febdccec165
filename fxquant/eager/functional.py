"""Arithmetic that can be observed: a module in place of ``x + y``, ``x * y`` and ``torch.cat``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fxquant.errors import FxquantError


class FloatFunctional(nn.Module):
    """Its methods are functions of torch whose results are observed; ``convert`` makes it a ``QFunctional``.

    All methods share one observer, so use one FloatFunctional for each place in ``forward``.
    """

    activation_post_process: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.activation_post_process = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """It is called by its methods.

        Raises:
            FxquantError: always.
        """
        raise FxquantError("a FloatFunctional is no function itself", remedy="call its methods: add, mul, cat, ...")

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """``x + y``."""
        return self._observed(torch.add(x, y))

    def add_scalar(self, x: Tensor, y: float) -> Tensor:
        """``x + y`` with a number; not observed, the integers' range follows the input's."""
        return torch.add(x, y)

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        """``x * y``."""
        return self._observed(torch.mul(x, y))

    def mul_scalar(self, x: Tensor, y: float) -> Tensor:
        """``x * y`` with a number; not observed, the integers' range follows the input's."""
        return torch.mul(x, y)

    def cat(self, x: Sequence[Tensor], dim: int = 0) -> Tensor:
        """Join tensors."""
        return self._observed(torch.cat(list(x), dim))

    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        """``relu(x + y)``."""
        return self._observed(torch.relu(torch.add(x, y)))

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """``x @ y``."""
        return self._observed(torch.matmul(x, y))

    def _observed(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation_post_process(x)
        return result
