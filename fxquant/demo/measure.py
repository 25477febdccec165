"""Size and speed of two models, measured alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_WARM_UP_RUNS = 3


def state_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers in the model's state_dict."""
    tensors = {id(value): value for value in model.state_dict().values() if isinstance(value, Tensor)}
    return sum(value.numel() * value.element_size() for value in tensors.values())


def median_latency_ms(
    models: tuple[nn.Module, ...],
    inputs: tuple[Any, ...],
    keywords: dict[str, Any] | None = None,
    *,
    seconds: float,
    threads: int = 1,
) -> tuple[float, ...]:
    """Median time of one call of each model, taking turns so that all see the same machine.

    Args:
        models: called with ``inputs`` in turn.
        inputs, keywords: arguments of one call.
        seconds: about how long to measure in all; at least five rounds are run.
        threads: of torch.

    Returns:
        Milliseconds, one per model.
    """
    times: list[list[float]] = [[] for _ in models]
    given = keywords or {}
    with _threads(threads), torch.inference_mode():
        for model in models:
            for _ in range(_WARM_UP_RUNS):
                model(*inputs, **given)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times[0]) < 5:
            for model, taken in zip(models, times, strict=True):
                start = time.perf_counter()
                model(*inputs, **given)
                taken.append(time.perf_counter() - start)
    return tuple(1000 * statistics.median(taken) for taken in times)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
