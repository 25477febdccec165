"""Running a model without leaving traces: random states, globals and class attributes are put back."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fxquant.capture.outer_state import OuterState
from fxquant.ir.walk_modules import Inventory


@contextmanager
def world_kept(model: nn.Module) -> Iterator[OuterState]:
    """Put back what running ``model``, or a copy of it, changes outside of it; yields what that is."""
    numpy_random = sys.modules.get("numpy.random")
    numpy_state = numpy_random.get_state() if numpy_random is not None else None
    python_state, outer = random.getstate(), OuterState(Inventory(model))
    grad, threads = torch.is_grad_enabled(), torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]), torch.compiler.set_stance("force_eager"):
            yield outer
    finally:
        random.setstate(python_state)
        if numpy_random is not None:
            numpy_random.set_state(numpy_state)
        torch.set_grad_enabled(grad)
        torch.set_num_threads(threads)
        outer.restore()
