"""What the traceability benchmark runs: a model, built without any download, and inputs of two sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Mapping[str, Any] | tuple[Any, ...]


@dataclass(frozen=True)
class Subject:
    """One model family.

    Attributes:
        name: in the table.
        library: ``torchvision``, ``transformers`` or ``timm``.
        build: makes the model in eval mode.
        make_inputs: called with (batch, step): step 0 is the example's size, 1 another size or length.
        second: (batch, step) of the proof at a second size.
        first: (batch, step) of the example.
        scan: whether the model has a state-space scan, which may stay a float leaf.
    """

    name: str
    library: str
    build: Callable[[], nn.Module]
    make_inputs: Callable[[int, int], Inputs]
    second: tuple[int, int] = (3, 1)
    scan: bool = False
    first: tuple[int, int] = (2, 0)

    def model(self) -> nn.Module:
        """The seeded model in eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return self.build().eval()

    def example(self) -> Inputs:
        """Inputs of the first size."""
        return self._seeded(*self.first)

    def other(self) -> Inputs:
        """Inputs of the second size."""
        return self._seeded(*self.second)

    def _seeded(self, batch: int, step: int) -> Inputs:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(10 * batch + step)
            return self.make_inputs(batch, step)


def images(size: int = 64, step: int = 32, channels: int = 3) -> Callable[[int, int], tuple[Tensor, ...]]:
    """Makes [batch, channels, size, size] float32, larger by ``step`` pixels at the second size."""
    return lambda batch, further: (torch.randn(batch, channels, size + step * further, size + step * further),)


def arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments."""
    return ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})
