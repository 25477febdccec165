"""Recurrent layers on plain tensors, with the matrix products left open: who calls says how to multiply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[str, Tensor], Tensor]
"""Multiplies [n, in] by the weight of that name and adds its bias: [n, out]."""


@dataclass(frozen=True)
class Recurrence:
    """What a recurrent layer or cell is.

    Attributes:
        kind: ``lstm``, ``gru``, ``tanh`` or ``relu``.
        hidden_size: numbers in its state.
        proj_size: of an LSTM: numbers in its output where that is projected, 0 where not.
        layers: how many are stacked.
        directions: 2 for bidirectional ones.
        batch_first: whether inputs are [batch, time, ...].
        is_cell: whether it does one step a call.
    """

    kind: str
    hidden_size: int
    proj_size: int = 0
    layers: int = 1
    directions: int = 1
    batch_first: bool = False
    is_cell: bool = False

    @property
    def states(self) -> int:
        """How many tensors its state has."""
        return 2 if self.kind == "lstm" else 1

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What the weights' names end in, layer by layer, forward before backward."""
        if self.is_cell:
            return ("",)
        ends = ("", "_reverse")[: self.directions]
        return tuple(f"_l{layer}{end}" for layer in range(self.layers) for end in ends)

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of its matrices, as the module has them."""
        names = ("weight_ih", "weight_hh", *(("weight_hr",) if self.proj_size else ()))
        return tuple(f"{name}{suffix}" for suffix in self.suffixes for name in names)


def step(kind: str, given: Tensor, kept: Tensor, state: list[Tensor]) -> list[Tensor]:
    """The next state of a layer; of an LSTM before its projection.

    Args:
        kind: as in ``Recurrence``.
        given: [n, gates x hidden], the input's product; kept: the state's.
        state: tensors [n, hidden]; of an LSTM the hidden state, which is not read, and the cell state.

    Source: the equations at https://docs.pytorch.org/docs/stable/nn.html#recurrent-layers.
    """
    if kind == "lstm":
        into, forget, new, out = (given + kept).chunk(4, -1)
        cell = torch.sigmoid(forget) * state[1] + torch.sigmoid(into) * torch.tanh(new)
        return [torch.sigmoid(out) * torch.tanh(cell), cell]
    if kind == "gru":
        reset, update, new = given.chunk(3, -1)
        kept_reset, kept_update, kept_new = kept.chunk(3, -1)
        fresh = torch.tanh(new + torch.sigmoid(reset + kept_reset) * kept_new)
        return [(state[0] - fresh) * torch.sigmoid(update + kept_update) + fresh]
    return [torch.relu(given + kept) if kind == "relu" else torch.tanh(given + kept)]


def run_layers(
    recurrence: Recurrence, product: Product, data: Tensor, sizes: list[int], state: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Run all layers over a sequence.

    Inputs are multiplied for all steps at once, states step by step.

    Args:
        recurrence: what the layer is.
        product: multiplies.
        data: [sum of sizes, in], the inputs of the first step, then those of the second, and so on.
        sizes: how many sequences each step has; never more than the one before.
        state: tensors [layers x directions, batch, ...] to start from.

    Returns:
        ``(outputs [sum of sizes, directions x out], last states)``.
    """
    finals: list[list[Tensor]] = []
    for layer in range(recurrence.layers):
        outputs = []
        for direction in range(recurrence.directions):
            index = layer * recurrence.directions + direction
            suffix = recurrence.suffixes[index]
            given = torch.split(product(f"weight_ih{suffix}", data), sizes)
            start = [part[index] for part in state]
            found, final = _run_direction(recurrence, product, given, start, suffix, backward=direction == 1)
            outputs.append(found)
            finals.append(final)
        data = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
    return data, [torch.stack(parts) for parts in zip(*finals, strict=True)]


def _run_direction(
    recurrence: Recurrence,
    product: Product,
    given: tuple[Tensor, ...],
    state: list[Tensor],
    suffix: str,
    backward: bool,
) -> tuple[Tensor, list[Tensor]]:
    outputs: list[Tensor] = []
    for product_in in reversed(given) if backward else given:
        count = len(product_in)
        active = [part[:count] for part in state]
        new = run_step(recurrence, product, product_in, active, suffix)
        outputs.append(new[0])
        state = [torch.cat((one, part[count:])) if count < len(part) else one
                 for one, part in zip(new, state, strict=True)]  # fmt: skip
    return torch.cat(outputs[::-1] if backward else outputs), state


def run_step(
    recurrence: Recurrence, product: Product, given: Tensor, state: list[Tensor], suffix: str = ""
) -> list[Tensor]:
    """One step of one direction of a layer, projection included; arguments as for ``step``."""
    new = step(recurrence.kind, given, product(f"weight_hh{suffix}", state[0]), state)
    if recurrence.proj_size:
        new[0] = product(f"weight_hr{suffix}", new[0])
    return new
