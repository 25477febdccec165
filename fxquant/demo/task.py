"""What every demo provides, so that the command line treats them alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


class Progress(Protocol):
    """Told how far the building of a task has come."""

    def __call__(self, done: int, total: int, what: str) -> None:
        """Take one report.

        Args:
            done: steps finished, 0..total.
            total: steps in all.
            what: a short text for the progress bar, as `"training, loss 0.123"`.
        """


@dataclass(frozen=True)
class DemoTask:
    """One trained network, the data to calibrate it with and the way to judge it.

    Attributes:
        name: as given to `fxquant demo --model`.
        description: one line about the network and its data.
        model: the float network, in eval mode.
        example_inputs: arguments of one call of `model`, for capture.
        calibration: batches to calibrate with, each a float32 tensor; none of them is in the test data.
        evaluate: judges a model on the test data. Metrics named `*_db` are decibels, others fractions, 0..1.
        baseline: `evaluate(model)`, the float network's own figures.
        headline: the key of the metric to show first.
        latency_inputs: arguments of the call whose time is worth comparing.
    """

    name: str
    description: str
    model: nn.Module
    example_inputs: tuple[Tensor, ...]
    calibration: Sequence[Tensor]
    evaluate: Callable[[nn.Module], dict[str, float]]
    baseline: dict[str, float]
    headline: str
    latency_inputs: tuple[Tensor, ...]


def format_metric(name: str, value: float) -> str:
    """Write one metric as text: `"99.40 %"` for a fraction, `"21.3 dB"` for a name that ends in `_db`."""
    if not name.endswith("_db"):
        return f"{100 * value:.2f} %"
    return "exact" if value == float("inf") else f"{value:.1f} dB"
