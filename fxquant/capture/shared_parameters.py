"""One copy of a model's parameters for all the copies of the model that a capture makes.

Several traces, and the calls of eager beside them, each need a model of their own; the values of the parameters are the
same in all of these, and most of what they take in memory. Each has them by copy on write: torch copies a tensor when
something writes into it, so that looking at them again is not needed where nothing did.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fxquant.capture.keep_state import put_back
from fxquant.ir.copy_on_write import copied_on_write


class SharedParameters:
    """The parameters of one model.

    Args:
        parameters: of the model; nothing writes into these themselves.

    Attributes:
        in_one_memory: whether all copies have the same memory, and write into it: where forward writes into parameters,
            since by the address, which a copy on write changes, is told what lies in the same memory.
        are_as_given: whether nothing that could write into that memory ran since it was last looked at.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._originals = [item for item in parameters if _is_plain(item)]
        self.in_one_memory = any(item.device.type not in ("cpu", "cuda") for item in self._originals)
        self.are_as_given = True
        self._pairs: list[tuple[nn.Parameter, Tensor]] = []

    def for_copy(self) -> dict[int, nn.Parameter]:
        """Parameters for one more copy of the model, with the values of the original's, by the id of these."""
        if not self._pairs:
            self._pairs = [(item, item.detach().clone()) for item in self._originals]
        if not self.in_one_memory:
            return {id(item): nn.Parameter(copied_on_write(values), item.requires_grad) for item, values in self._pairs}
        self.put_back()
        self.are_as_given = False  # the copy will be called
        return {id(item): nn.Parameter(values, item.requires_grad) for item, values in self._pairs}

    def put_back(self) -> None:
        """Undo what the copies wrote into the parameters; ``parameter.data`` may have been written into unseen."""
        if self.in_one_memory and not self.are_as_given:
            for item, values in self._pairs:
                put_back(values, item)
        self.are_as_given = True


def _is_plain(item: nn.Parameter) -> bool:
    return type(item) is nn.Parameter and item.layout is torch.strided and not item.is_meta and not item.is_inference()
