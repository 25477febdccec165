"""Running a model without leaving traces: random states, globals and class attributes are put back."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.check.state_slots import fingerprint
from fxquant.check.variables import Variable, variables_of

_CONTAINERS = (list, dict, set)


@contextmanager
def world_kept(model: nn.Module) -> Iterator[None]:
    """Put back what running ``model``, or a copy of it, changes outside of it."""
    numpy_random = sys.modules.get("numpy.random")
    numpy_state = numpy_random.get_state() if numpy_random is not None else None
    python_state, undo = random.getstate(), _remember(model)
    grad, threads = torch.is_grad_enabled(), torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        random.setstate(python_state)
        if numpy_random is not None:
            numpy_random.set_state(numpy_state)
        torch.set_grad_enabled(grad)
        torch.set_num_threads(threads)
        for step in undo:
            step()


def _remember(model: nn.Module) -> list[Callable[[], None]]:
    """Steps that put variables of the model's files and classes back."""
    return [step for variable in variables_of(model) for step in _steps(variable)]


def _steps(variable: Variable) -> Iterator[Callable[[], None]]:
    value = variable.get()
    if variable.name == "__defaults__":
        yield from (_restorer(item) for item in value if isinstance(item, _CONTAINERS))
        return
    if isinstance(value, (*_CONTAINERS, Tensor)):
        yield _restorer(value)

    def put_back() -> None:
        if variable.get() is not value:
            setattr(variable.owner, variable.name, value)

    yield put_back


def _restorer(value: Any) -> Callable[[], None]:
    """A step that gives a container, or a tensor, the content it has now."""
    before = fingerprint(value)
    saved = value.detach().clone() if isinstance(value, Tensor) else copy.copy(value)

    def restore() -> None:
        if fingerprint(value) == before:
            return
        if isinstance(value, Tensor):
            with torch.no_grad():
                value.copy_(saved)
            return
        value.clear()
        value.extend(saved) if isinstance(value, list) else value.update(saved)

    return restore
