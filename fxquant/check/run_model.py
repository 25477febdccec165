"""Calling a model, or a graph of it, so that two calls can be compared."""

from __future__ import annotations

import contextlib
import io
import random
import sys
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.capture.copy_module import copy_module
from fxquant.capture.inputs import map_leaves, split_inputs
from fxquant.capture.outer_state import OuterState
from fxquant.check.probes import fresh

SEED = 7
_recording: ContextVar[bool] = ContextVar("recording", default=False)


@contextlib.contextmanager
def gradients_recorded(needed: bool = True) -> Iterator[None]:
    """Inside, all calls record operations for backward: for models that take gradients in forward."""
    token = _recording.set(needed)
    try:
        yield
    finally:
        _recording.reset(token)


def gradient_mode(gradients: bool = False) -> torch.set_grad_enabled:
    """The mode of a call: gradients are on where they are asked for, or where the model needs them."""
    return torch.set_grad_enabled(gradients or _recording.get())


@dataclass(frozen=True)
class Result:
    """What a call gave.

    Attributes:
        value: what was returned, None when it raised.
        error: what was raised, None when nothing was.
        drew: whether a random state is not as it was seeded.
    """

    value: Any = None
    error: Exception | None = None
    drew: bool = True


def call(model: nn.Module, inputs: Any, seed: int = SEED, *, gradients: bool = False) -> Result:
    """Call ``model`` on a copy of ``inputs``, with every random state seeded.

    Args:
        model: a model or a graph; what it keeps between calls may change.
        inputs: a tuple, a dict of keywords, or one tensor.
        seed: of Python's, numpy's and torch's generators.
        gradients: record the operations for backward.
    """
    args, kwargs = split_inputs(fresh(inputs))
    seed_all(seed)
    states = _random_states()
    with gradient_mode(gradients), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # and fx prints what a graph raises
        try:
            value = model(*args, **kwargs)
            return Result(value, drew=_random_states() != states)
        except Exception as error:
            return Result(error=error)


class Subject:
    """A model to call again and again as if for the first time.

    Args:
        model: copied; a model that keeps nothing between calls is copied once only.
        keeps_state: whether it does keep something.
        dtype: float16 or bfloat16 for a model of that dtype whose graph computes in float32: then this one does so too.
        outer: what the model changes outside of itself; put back before every first call.
    """

    def __init__(
        self, model: nn.Module, keeps_state: bool, dtype: torch.dtype | None = None, outer: OuterState | None = None
    ) -> None:
        self._outer = outer
        self._model = copy_module(model).float() if dtype is not None else model
        self._dtype = dtype
        self._keeps_state = keeps_state
        self._copy = copy_module(self._model)

    def model(self) -> nn.Module:
        """A model that has not been called yet, or that does not remember."""
        if self._outer is not None:
            self._outer.restore()
        return self.fresh() if self._keeps_state else self._copy

    def fresh(self) -> nn.Module:
        """A copy of its own for the caller."""
        return copy_module(self._model)

    def call(self, inputs: Any, seed: int = SEED) -> Result:
        """Call it on a copy of ``inputs``."""
        return self.call_model(self.model(), inputs, seed)

    def call_model(self, model: nn.Module, inputs: Any, seed: int = SEED, *, gradients: bool = False) -> Result:
        """Call one of its copies; a half-precision model computes in float32 and returns its own dtype."""
        if self._dtype is None:
            return call(model, inputs, seed, gradients=gradients)
        result = call(model, _cast(inputs, torch.float32), seed, gradients=gradients)
        return result if result.error is not None else Result(_cast(result.value, self._dtype), drew=result.drew)


class GraphSubject(Subject):
    """The same for a captured graph, which is copied whole."""

    def __init__(self, graph: nn.Module, keeps_state: bool, outer: OuterState | None = None) -> None:
        self._model, self._outer = graph, outer
        self._dtype = None
        self._keeps_state = keeps_state
        self._copy = copy_module(graph)

    def fresh(self) -> nn.Module:
        """A copy of its own for the caller."""
        return copy_module(self._model)


def _cast(values: Any, dtype: torch.dtype) -> Any:
    def at_leaf(leaf: Any, path: Any) -> Any:
        return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return map_leaves(values, at_leaf)


def _random_states() -> tuple[Any, ...]:
    numpy_random = sys.modules.get("numpy.random")
    numbers = numpy_random.get_state() if numpy_random is not None else ("", b"", 0)
    return torch.default_generator.get_state().numpy().tobytes(), random.getstate(), bytes(numbers[1]), numbers[2:]


def seed_all(seed: int = SEED) -> None:
    """Seed torch's, Python's and numpy's generators."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # asks no device, each of which would read the whole stack
        torch.default_generator.manual_seed(seed)
    random.seed(seed)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(seed)
