"""Running a copy of the user's model as it is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fxquant.capture.copy_module import copy_module
from fxquant.capture.inputs import copy_tensors
from fxquant.capture.keep_state import randomness_kept
from fxquant.capture.outer_state import OuterState
from fxquant.ir.walk_modules import Inventory


def run_eager(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], gradients: bool = False) -> Any:
    """What a copy of ``model`` computes; nothing of it, of the inputs or of the world changes.

    Args:
        model: not changed.
        args, kwargs: its inputs.
        gradients: whether they are on.

    Raises:
        Exception: whatever the model raises.
    """
    copied = copy_module(model)
    outer = OuterState(Inventory(copied))
    try:
        with torch.set_grad_enabled(gradients), randomness_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return copied(*copy_tensors(tuple(args)), **copy_tensors(dict(kwargs)))
    finally:
        outer.restore()
