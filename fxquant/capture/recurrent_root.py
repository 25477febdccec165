"""A recurrent layer or cell that is the whole model.

Graphs are of what a model's ``forward`` does, and a recurrent module is one operator in them. So one that is the whole
model becomes the child of another::

    LSTM(8, 6)    ->    RecurrentRoot((layer): LSTM(8, 6))        # %layer = call_module[layer](%input)
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fxquant.ops import catalogue
from fxquant.ops.recurrent import RECURRENT


class RecurrentRoot(nn.Module):
    """Calls its only child, ``layer``.

    Args:
        layer: a recurrent layer or cell of torch.nn.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.training = layer.training

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As the child: a tensor or a packed sequence, with a state or without."""
        return self.layer(input) if hx is None else self.layer(input, hx)


def with_recurrent_child(model: nn.Module) -> nn.Module:
    """``model`` itself; of a recurrent module that a row describes, the model that has it as its child."""
    row = catalogue.by_module(type(model)) if isinstance(model, nn.Module) else None
    return model if row is None or row.name not in RECURRENT else RecurrentRoot(model)
