"""Calls of recurrent modules: any form of input and state in, the same form out."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fxquant.numerics.recurrent import Recurrence, run_layers, run_step

Layers = tuple[Tensor, list[Tensor]]


def recurrence_of(module: nn.Module) -> Recurrence:
    """What a module of torch.nn is: one of the recurrent layers or cells."""
    given: Any = module
    if isinstance(module, nn.RNNCellBase):
        kinds = {nn.LSTMCell: "lstm", nn.GRUCell: "gru"}
        kind = next((kind for base, kind in kinds.items() if isinstance(module, base)), None)
        return Recurrence(kind or given.nonlinearity, given.hidden_size, is_cell=True)
    kind = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "tanh", "RNN_RELU": "relu"}[given.mode]
    directions = 2 if given.bidirectional else 1
    return Recurrence(kind, given.hidden_size, given.proj_size, given.num_layers, directions, given.batch_first)


class Recurrent(nn.Module):
    """Base of what stands in a graph for a recurrent layer or cell of torch.nn.

    Args:
        recurrence: what it is.
    """

    def __init__(self, recurrence: Recurrence) -> None:
        super().__init__()
        self.recurrence = recurrence

    @abstractmethod
    def product(self, name: str, x: Tensor) -> Tensor:
        """Multiply [n, in] by the weight of that name: [n, out], bias included."""

    def gate(self, name: str, x: Tensor) -> Tensor:
        """What a gate gets, before its sigmoid or tanh: as it is."""
        return x

    def layers(self, data: Tensor, batch_sizes: Tensor | None, state: list[Tensor]) -> Layers:
        """Run all layers, step by step.

        Args:
            data: [time, batch, in], or [sum of batch sizes, in] with ``batch_sizes``, int64 [time].
            state: tensors [layers x directions, batch, ...].

        Returns:
            Outputs, in the form of ``data``, and last states.
        """
        sizes = [data.shape[1]] * len(data) if batch_sizes is None else batch_sizes.tolist()
        rows = data.flatten(0, 1) if batch_sizes is None else data
        outputs, last = run_layers(self, rows, sizes, state)
        return outputs.view(*data.shape[:2], outputs.shape[-1]) if batch_sizes is None else outputs, last

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As the module it stands for: a tensor or a ``PackedSequence``, with a state or without."""
        if self.recurrence.is_cell:
            return self._cell(input, hx)
        if isinstance(input, PackedSequence):
            return self._packed(input, hx)
        batched = input if input.dim() == 3 else input.unsqueeze(0 if self.recurrence.batch_first else 1)
        data = batched.transpose(0, 1) if self.recurrence.batch_first else batched
        state = self._state(hx, data, data.shape[1], added=1 if input.dim() == 2 else None)
        outputs, last = self.layers(data, None, state)
        outputs = outputs.transpose(0, 1) if self.recurrence.batch_first else outputs
        if input.dim() == 2:
            outputs = outputs.squeeze(0 if self.recurrence.batch_first else 1)
            last = [part.squeeze(1) for part in last]
        return outputs, self._as_given(last)

    def _packed(self, input: PackedSequence, hx: Any) -> Any:
        data, batch_sizes, order, back = input
        state = self._state(hx, data, int(batch_sizes[0]))
        if hx is not None and order is not None:
            state = [part.index_select(1, order) for part in state]
        outputs, last = self.layers(data, batch_sizes, state)
        if back is not None:
            last = [part.index_select(1, back) for part in last]
        return PackedSequence(outputs, batch_sizes, order, back), self._as_given(last)

    def _cell(self, input: Tensor, hx: Any) -> Any:
        batched = input if input.dim() == 2 else input.unsqueeze(0)
        state = self._state(hx, batched, len(batched), added=0 if input.dim() == 1 else None, leading=())
        new = run_step(self, self.product("weight_ih", batched), state)
        return self._as_given(new if input.dim() == 2 else [part.squeeze(0) for part in new])

    def _state(
        self, hx: Any, data: Tensor, batch: int, added: int | None = None, leading: tuple[int, ...] | None = None
    ) -> list[Tensor]:
        """The state to start from, zeros where none is given; ``added`` is the dimension unbatched ones lack."""
        recurrence = self.recurrence
        if hx is not None:
            given = [hx] if isinstance(hx, Tensor) else list(hx)
            return [part if added is None else part.unsqueeze(added) for part in given]
        first = (recurrence.layers * recurrence.directions,) if leading is None else leading
        sizes = (recurrence.proj_size or recurrence.hidden_size, recurrence.hidden_size)[: recurrence.states]
        return [data.new_zeros(*first, batch, size, dtype=torch.float32) for size in sizes]

    def _as_given(self, state: list[Tensor]) -> Any:
        return tuple(state) if self.recurrence.kind == "lstm" else state[0]

    def extra_repr(self) -> str:
        """What it is."""
        return str(self.recurrence)
