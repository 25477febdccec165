"""When ranges stop moving and batch norms are frozen, in the course of quantization-aware training."""

from __future__ import annotations

from typing import Any

from torch import nn

from fxquant.errors import ConfigError
from fxquant.observers.fake_quantize import disable_observer
from fxquant.passes.normalize import freeze_bn_stats

OBSERVER_EPOCHS = 4
BATCH_NORM_EPOCHS = 3


class QATSchedule:
    """Counts training steps; keeps ranges as they are after some, and the statistics of batch norms after others.

    Call ``step()`` after every step of the optimizer. The defaults are those of torchvision's training of quantized
    networks: statistics of batch norms are frozen after 3 epochs, ranges after 4.

    Args:
        model: from ``prepare_qat_fx``, or one that holds it.
        steps_per_epoch: batches in an epoch.
        observer_steps: steps after which ranges stay; default 4 epochs.
        batch_norm_steps: steps after which batch norms are frozen; default 3 epochs.

    Attributes:
        steps: steps so far.

    Raises:
        ConfigError: a number is negative, or ``steps_per_epoch`` is needed and was not given.

    Source: ``--num-observer-update-epochs`` and ``--num-batch-norm-update-epochs`` in
        https://github.com/pytorch/vision/blob/main/references/classification/train_quantization.py
    """

    def __init__(
        self,
        model: nn.Module,
        steps_per_epoch: int | None = None,
        *,
        observer_steps: int | None = None,
        batch_norm_steps: int | None = None,
    ) -> None:
        self.model, self.steps = model, 0
        self.observer_steps = _count(observer_steps, steps_per_epoch, OBSERVER_EPOCHS)
        self.batch_norm_steps = _count(batch_norm_steps, steps_per_epoch, BATCH_NORM_EPOCHS)
        self._switch()

    def step(self) -> None:
        """Count a step of the optimizer."""
        self.steps += 1
        self._switch()

    def _switch(self) -> None:
        if self.steps == self.observer_steps:
            self.model.apply(disable_observer)
        if self.steps == self.batch_norm_steps:
            self.model.apply(freeze_bn_stats)

    def state_dict(self) -> dict[str, Any]:
        """What to save; the switches themselves are in the model's state_dict."""
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.steps = int(state_dict["steps"])


def _count(given: int | None, steps_per_epoch: int | None, epochs: int) -> int:
    if given is None and steps_per_epoch is None:
        raise ConfigError(
            "QATSchedule does not know how long an epoch is",
            remedy="pass steps_per_epoch=len(loader), or both observer_steps and batch_norm_steps",
        )
    steps = given if given is not None else epochs * int(steps_per_epoch or 0)
    if steps < 0:
        raise ConfigError(f"QATSchedule: {steps} steps", remedy="give a number of steps that is not negative")
    return steps
