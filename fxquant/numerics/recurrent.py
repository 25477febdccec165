"""Recurrent layers on plain tensors; who calls says how to multiply, and what to do with what a gate gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


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

    @property
    def places(self) -> tuple[str, ...]:
        """Where it has a range when it computes on ranges known before: what each matrix and each gate gets."""
        gates = tuple(name for suffix in self.suffixes for name in gate_names(self.kind, suffix))
        return (*(f"{name}_input" for name in self.weights), *gates)


_GATES = {
    "lstm": ("input", "forget", "cell", "output"),
    "gru": ("reset", "update", "new"),
    "tanh": ("new",),
    "relu": ("new",),
}


def gate_names(kind: str, suffix: str) -> list[str]:
    """Names of the gates of one direction of a layer, in the order of their rows in the weights."""
    return [f"gate_{name}{suffix}" for name in _GATES[kind]]


class Arithmetic(Protocol):
    """How a recurrent layer is computed."""

    @property
    def recurrence(self) -> Recurrence:
        """What it is."""

    def product(self, name: str, x: Tensor) -> Tensor:
        """Multiply [n, in] by the weight of that name and add its bias: [n, out]."""

    def gate(self, name: str, x: Tensor) -> Tensor:
        """What sigmoid or tanh of a gate gets, of the same shape as ``x``; ``name`` is the gate's, with a suffix."""


def step(how: Arithmetic, given: Tensor, kept: Tensor, state: list[Tensor], suffix: str = "") -> list[Tensor]:
    """The next state of a layer; of an LSTM before its projection.

    Args:
        how: the arithmetic.
        given: [n, gates x hidden], the product of the input. kept: that of the state.
        state: tensors [n, hidden], the first of an LSTM with projection [n, proj].
        suffix: of the names of gates.

    Source: the formulas of https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html and of GRU and RNN.
    """
    kind = how.recurrence.kind
    names = gate_names(kind, suffix)
    if kind == "lstm":
        parts = zip(names, (given + kept).chunk(4, -1), strict=True)
        into, forget, new, out = (how.gate(name, part) for name, part in parts)
        cell = torch.sigmoid(forget) * state[1] + torch.sigmoid(into) * torch.tanh(new)
        return [torch.sigmoid(out) * torch.tanh(cell), cell]
    if kind == "gru":
        reset, update, new = given.chunk(3, -1)
        kept_reset, kept_update, kept_new = kept.chunk(3, -1)
        opened = torch.sigmoid(how.gate(names[0], reset + kept_reset))
        updated = torch.sigmoid(how.gate(names[1], update + kept_update))
        fresh = torch.tanh(how.gate(names[2], new + opened * kept_new))
        return [(state[0] - fresh) * updated + fresh]
    total = how.gate(names[0], given + kept)
    return [torch.relu(total) if kind == "relu" else torch.tanh(total)]


def run_layers(how: Arithmetic, data: Tensor, sizes: list[int], state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Run all layers over a sequence.

    Inputs are multiplied for all steps at once, states step by step.

    Args:
        how: the arithmetic.
        data: [sum of sizes, in], the inputs of the first step, then those of the second, and so on.
        sizes: how many sequences each step has; never more than the one before.
        state: tensors [layers x directions, batch, ...] to start from.

    Returns:
        ``(outputs [sum of sizes, directions x out], last states)``.
    """
    recurrence = how.recurrence
    finals: list[list[Tensor]] = []
    for layer in range(recurrence.layers):
        outputs = []
        for direction in range(recurrence.directions):
            index = layer * recurrence.directions + direction
            suffix = recurrence.suffixes[index]
            given = torch.split(how.product(f"weight_ih{suffix}", data), sizes)
            start = [part[index] for part in state]
            found, final = _run_direction(how, given, start, suffix, backward=direction == 1)
            outputs.append(found)
            finals.append(final)
        data = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
    return data, [torch.stack(parts) for parts in zip(*finals, strict=True)]


def _run_direction(
    how: Arithmetic,
    given: tuple[Tensor, ...],
    state: list[Tensor],
    suffix: str,
    backward: bool,
) -> tuple[Tensor, list[Tensor]]:
    outputs: list[Tensor] = []
    for product_in in reversed(given) if backward else given:
        count = len(product_in)
        active = [part[:count] for part in state]
        new = run_step(how, product_in, active, suffix)
        outputs.append(new[0])
        state = [torch.cat((one, part[count:])) if count < len(part) else one
                 for one, part in zip(new, state, strict=True)]  # fmt: skip
    return torch.cat(outputs[::-1] if backward else outputs), state


def run_step(how: Arithmetic, given: Tensor, state: list[Tensor], suffix: str = "") -> list[Tensor]:
    """One step of one direction of a layer, projection included; arguments as for ``step``."""
    new = step(how, given, how.product(f"weight_hh{suffix}", state[0]), state, suffix)
    if how.recurrence.proj_size:
        new[0] = how.product(f"weight_hr{suffix}", new[0])
    return new
