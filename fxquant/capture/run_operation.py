"""Running an operation on the values of the proxies it is given, without gradients and without recording it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fxquant.capture.given_objects import GivenObjects
from fxquant.capture.structures import unwrap
from fxquant.ir.float_part import FloatPart

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer


def run_operation(tracer: ValueTracer, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operation gives on the example.

    Args:
        tracer: records nothing meanwhile, but for what a module that is kept whole does to objects.
        kind, target, args, kwargs: of a node that calls; arguments hold proxies.

    Raises:
        Exception: whatever the operation raises.
    """
    with without_gradients(), tracer.nothing_recorded():
        real_args, real_kwargs = unwrap(args), unwrap(kwargs)
        if kind == "call_module":
            module = tracer.root.get_submodule(target)
            call = module.forward if target in tracer.unhooked else module  # what its hooks do follows
            return _run_module(tracer, module, call, real_args, real_kwargs)
        if kind == "call_method":
            return getattr(real_args[0], target)(*real_args[1:], **real_kwargs)
        return target(*real_args, **real_kwargs)


@contextmanager
def without_gradients() -> Iterator[None]:
    """Switch gradients off for what a trace itself runs: no block of the user's."""
    before = _set_gradients(False)
    try:
        yield
    finally:
        _set_gradients(before)


def _run_module(tracer: ValueTracer, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    if isinstance(module, FloatPart):  # parts see to what they are given, and what they run leaves no nodes
        with tracer.layers.code.not_watching():
            return call(*args, **kwargs)
    given = GivenObjects((args, kwargs), True)
    return given.unchanged_by(call(*args, **kwargs), tracer.recorder)


def _set_gradients(enabled: bool) -> bool:
    """Switch gradients, past the torch function mode; returns how they were."""
    with torch._C.DisableTorchFunction():
        before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(enabled)
    return before
