"""Switches of modules in training: buffers, so that they are saved with a model, read without waiting for a device."""

from __future__ import annotations

from torch import nn

_NEAR = frozenset(("cpu",))
"""Devices whose memory is read at once; of others what was read last is kept until the buffer is written again."""


def is_on(holder: nn.Module, name: str) -> bool:
    """Whether a switch is on.

    A training step asks for several switches at each layer. On an accelerator each answer would wait for all that is
    under way there, so an answer is kept, with the buffer it was read from and the number of times that was written.

    Args:
        holder: a module.
        name: of its buffer, uint8 [1].
    """
    buffer = holder._buffers[name]
    assert buffer is not None
    if buffer.device.type in _NEAR or buffer.is_inference():
        return bool(buffer.item())
    answers = holder.__dict__.setdefault("_switch_answers", {})
    known = answers.get(name)
    if known is None or known[0] is not buffer or known[1] != buffer._version:
        known = answers[name] = (buffer, buffer._version, bool(buffer.item()))
    return known[2]  # type: ignore[no-any-return]
