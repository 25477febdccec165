"""Calling a captured graph beside eager in other circumstances, where forward asks for these.

Whether gradients are wanted, and how tensors lie in memory, is answered as it is in the trace. Where another answer
computes something else, the statement that asks runs as Python.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.capture.against_eager import Eager, same_results
from fxquant.capture.inputs import BoundInputs
from fxquant.capture.keep_state import randomness_kept

Mode = Callable[[], AbstractContextManager[None]]
_CALLS = 2  # what a call writes shows in the next
_MODES: tuple[Mode, ...] = (torch.no_grad, torch.inference_mode, torch.enable_grad)


@dataclass(frozen=True)
class Circumstances:
    """Calls a graph beside eager.

    Attributes:
        model: the user's; not changed.
        traced: the graph on the copy that was traced.
        inputs: the example.
        restore: puts back what calls change on the root and outside of it.
    """

    model: nn.Module
    traced: fx.GraphModule
    inputs: BoundInputs
    restore: Callable[[], None]

    def matter_for_gradients(self) -> bool:
        """Whether the two part with gradients, for inputs too, without them, or in inference mode."""
        wanting = replace(self.inputs, want_gradients=True)
        return any(self._parts(mode, self.inputs) for mode in _MODES) or self._parts(torch.enable_grad, wanting)

    def matter_for_memory(self) -> bool:
        """Whether the two part on inputs that lie in memory in another order."""
        return self._parts(torch.no_grad, self.inputs.changed(_in_another_order))

    def _parts(self, mode: Mode, inputs: BoundInputs) -> bool:
        try:
            with mode():
                eager = Eager(self.model, gradients=True)
                expected = [eager.call(inputs) for _ in range(_CALLS)]
        except Exception:  # a model may refuse it
            return False
        finally:
            self.restore()
        try:
            return not all(same_results(wanted, _called(self.traced, inputs, mode)) for wanted in expected)
        except Exception:
            return True
        finally:
            self.restore()


def _called(traced: fx.GraphModule, inputs: BoundInputs, mode: Mode) -> Any:
    args, kwargs = inputs.copied()
    with mode(), randomness_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return traced.forward(*args, *kwargs.values())


def _in_another_order(tensor: Tensor) -> Tensor:
    if tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor
