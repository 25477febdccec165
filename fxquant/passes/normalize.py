"""Batch norms of a model in quantization-aware training: called, or left out where weights hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.observers.switches import is_on


@dataclass
class NormCall:
    """A call of ``F.batch_norm``, with the attributes of a batch-norm module.

    Attributes:
        running_mean, running_var, weight, bias: [C] or None. training, momentum, eps: as in ``F.batch_norm``.
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise ``x``, [N, C, ...]."""
        tensors = (self.running_mean, self.running_var, self.weight, self.bias)
        return F.batch_norm(x, *tensors, self.training, self.momentum, self.eps)


def normalizes_by_batch(norm: Any) -> bool:
    """Whether a batch norm, module or ``NormCall``, goes by the batch at hand."""
    return bool(norm.training) or norm.running_mean is None


def normalize(x: Tensor, norm: Any, called: bool) -> Tensor:
    """``norm(x)``, or ``x`` where the weights hold the batch norm.

    Args:
        x: [N, C, ...].
        norm: a batch-norm module or a ``NormCall``.
        called: what ``TrainedWeight`` says.
    """
    return norm(x) if called else x


class BatchNormSwitch(nn.Module):
    """Calls a batch norm that no weight holds; frozen, it keeps its statistics in training too.

    Attributes:
        batch_norm_frozen: uint8 [1].
    """

    batch_norm_frozen: Tensor

    def __init__(self) -> None:
        super().__init__()
        with torch.inference_mode(False):
            self.register_buffer("batch_norm_frozen", torch.zeros(1, dtype=torch.uint8))

    def forward(self, x: Tensor, norm: Any) -> Tensor:
        """Normalise ``x``, [N, C, ...], with ``norm``, a batch-norm module."""
        if not is_on(self, "batch_norm_frozen") or norm.running_mean is None:
            return norm(x)  # type: ignore[no-any-return]
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)

    def freeze_batch_norm(self, frozen: bool = True) -> None:
        """Keep the statistics there are, or let them learn again."""
        self.batch_norm_frozen.fill_(int(frozen))


def freeze_bn_stats(mod: nn.Module) -> None:
    """Keep the statistics of batch norms: ``model.apply(fxquant.freeze_bn_stats)``; their γ and β still learn."""
    if hasattr(mod, "batch_norm_frozen"):
        mod.freeze_batch_norm()  # type: ignore[operator]


def update_bn_stats(mod: nn.Module) -> None:
    """Let batch norms learn their statistics again: ``model.apply(fxquant.update_bn_stats)``."""
    if hasattr(mod, "batch_norm_frozen"):
        mod.freeze_batch_norm(False)  # type: ignore[operator]
