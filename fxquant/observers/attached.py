"""The modules that an observed model calls: they add what an observer does not know, names and counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fxquant.errors import CalibrationError
from fxquant.observers.base import ObserverBase


class AttachedObserver(nn.Module):
    """Runs one observer at the places where a range is observed.

    Args:
        observer: an observer of fxquant or torch.ao.

    Attributes:
        batches: number of batches seen, by place.
    """

    def __init__(self, observer: nn.Module) -> None:
        super().__init__()
        self.observer = observer
        self.batches: dict[str, int] = {}

    def forward(self, x: Tensor, node: str, module_path: str = "", source: str = "") -> Tensor:
        """Observe ``x`` (any shape, floating) and return it as it is.

        Raises:
            CalibrationError: ``x`` holds NaN or infinity; names the node and the batch, counted from 0.
        """
        batch = self.batches.get(node, 0)
        self.batches[node] = batch + 1
        try:
            self._observe(x)
        except CalibrationError as error:
            raise CalibrationError(
                f"{error.message}, at node {node!r} in calibration batch {batch}",
                op=node,
                module_path=module_path,
                source=source,
                remedy=error.remedy,
            ) from None
        return x

    def train(self, mode: bool = True) -> AttachedObserver:
        """Calibration happens in evaluation mode too: what observes only while training (fake quantization) goes on."""
        super().train(mode)
        self.observer.train()
        return self

    def _observe(self, x: Tensor) -> None:
        if isinstance(self.observer, ObserverBase):
            self.observer(x)
            return
        with torch.inference_mode(False), torch.no_grad():
            if x.numel() and not bool(torch.isfinite(x).all()):
                raise CalibrationError("NaN or infinity", remedy="look for values that are not finite in the data")
            self.observer(x.detach())
