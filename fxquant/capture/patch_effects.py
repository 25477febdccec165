"""Stand-ins for what leaves no trace in a graph: blocks, custom gradients, writes to attributes."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.amp import autocast_mode
from torch.autograd.function import _SingleLevelFunction
from torch.autograd.graph import saved_tensors_hooks

from fxquant.capture.facts import FactKind
from fxquant.capture.source import is_user_file, user_frame
from fxquant.capture.structures import holds_proxy
from fxquant.ir.named_call import CustomFunctionCall, ScriptCall

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

Undo = Callable[[], None]


# -- blocks -------------------------------------------------------------------------------------------


def patch_blocks(tracer: ValueTracer) -> Iterator[Undo]:
    """Write down blocks that switch gradients or autocast."""
    for kind in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        yield _around(kind, "__enter__", functools.partial(_entered_grad_mode, tracer))
    yield _around(torch.set_grad_enabled, "__init__", functools.partial(_entered_grad_mode, tracer))
    yield _around(autocast_mode.autocast, "__enter__", functools.partial(_entered_autocast, tracer))
    yield _around(saved_tensors_hooks, "__enter__", functools.partial(_entered_hooks, tracer))


def _around(kind: type, name: str, run: Callable[..., Any]) -> Undo:
    original = vars(kind)[name]

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return run(functools.partial(original, self, *args, **kwargs), self)

    setattr(kind, name, method)
    return functools.partial(setattr, kind, name, original)


def _entered_grad_mode(tracer: ValueTracer, enter: Callable[[], Any], block: Any) -> Any:
    before = torch.is_grad_enabled()
    result = enter()
    if not tracer.executing and torch.is_grad_enabled() is not before:
        handled = "what is computed in it is detached" if before else ""
        if user_frame() is not None:
            tracer.record(FactKind.GRAD_MODE, type(block).__name__, handled)
    return result


def _entered_hooks(tracer: ValueTracer, enter: Callable[[], Any], block: Any) -> Any:
    """What hooks make of the tensors that backward needs is lost in a graph; torch's own only move them."""
    is_users = type(block) is saved_tensors_hooks or not type(block).__module__.startswith("torch.")
    if is_users and not tracer.executing and tracer.settings.trains and user_frame() is not None:
        tracer.report(FactKind.OPAQUE_CALL, f"{type(block).__name__} acts on gradients")
    return enter()


def _entered_autocast(tracer: ValueTracer, enter: Callable[[], Any], block: Any) -> Any:
    before = _autocast_state(block)
    result = enter()
    if not tracer.executing:
        if before != _autocast_state(block):
            tracer.report(FactKind.AUTOCAST, f"{block.device} {block.fast_dtype}")
        else:
            tracer.record(FactKind.AUTOCAST, block.device, "without effect here")
    return result


def _autocast_state(block: Any) -> tuple[Any, ...]:
    kinds = {"cpu", block.device}
    states = [
        (kind, torch.is_autocast_enabled(kind)) for kind in sorted(kinds) if torch.amp.is_autocast_available(kind)
    ]
    return tuple(
        (kind, on, torch.get_autocast_dtype(kind) if on else None) for kind, on in states if kind == "cpu" or on
    )


# -- the environment ----------------------------------------------------------------------------------


def patch_environment(tracer: ValueTracer) -> Iterator[Undo]:
    """Write down what is read of the environment: it is built in."""
    original = os._Environ.__getitem__

    @functools.wraps(original)
    def read(environment: Any, key: Any) -> Any:
        found: Any = None
        try:
            found = original(environment, key)
            return found
        finally:
            if user_frame() is not None:
                tracer.record(FactKind.STATIC, f"environment: {key}={found}")

    os._Environ.__getitem__ = read  # type: ignore[method-assign]
    yield functools.partial(setattr, os._Environ, "__getitem__", original)


# -- modules ------------------------------------------------------------------------------------------


def patch_module_class(tracer: ValueTracer) -> Iterator[Undo]:
    """Write down writes to attributes of modules, and questions for ``training``."""
    original = nn.Module.__setattr__

    @functools.wraps(original)
    def set_attribute(module: nn.Module, name: str, value: Any) -> None:
        if tracer.executing or not tracer.writes.set_on_module(module, name, value):
            if holds_proxy(value):
                object.__setattr__(module, name, value)
            else:
                original(module, name, value)

    nn.Module.__setattr__ = set_attribute  # type: ignore[method-assign, assignment]
    yield functools.partial(setattr, nn.Module, "__setattr__", original)
    nn.Module.training = _TrainingProbe(tracer)  # type: ignore[assignment]
    yield functools.partial(delattr, nn.Module, "training")


class _TrainingProbe:
    """Stands before the attribute ``training`` of every module, and writes down who asks for it."""

    def __init__(self, tracer: ValueTracer) -> None:
        self.tracer = tracer

    def __get__(self, module: nn.Module | None, owner: type) -> Any:
        if module is None:
            raise AttributeError("training")
        if "training" not in vars(module):
            return module.__getattr__("training")
        value = vars(module)["training"]
        if not self.tracer.executing and is_user_file(sys._getframe(1).f_code.co_filename):
            self.tracer.record(FactKind.TRAINING, value)
        return value

    def __set__(self, module: nn.Module, value: Any) -> None:
        vars(module)["training"] = value


# -- functions ----------------------------------------------------------------------------------------


def patch_functions(tracer: ValueTracer, stand_ins: dict[Any, Any]) -> Iterator[Undo]:
    """Call custom gradients and TorchScript as a whole; open what is checkpointed.

    Args:
        tracer: what records the calls.
        stand_ins: by function; those of functions that modules import by name are added.
    """
    yield _call_custom_functions(tracer)
    yield _call_scripts(tracer)
    checkpoints = sys.modules.get("torch.utils.checkpoint")
    if checkpoints is not None:
        original = checkpoints.checkpoint
        checkpoints.checkpoint = stand_ins[original] = _opened_checkpoint(original, tracer)  # type: ignore[attr-defined]
        yield functools.partial(setattr, checkpoints, "checkpoint", original)


def _call_custom_functions(tracer: ValueTracer) -> Undo:
    """Stand before the C++ half of ``apply``: the Python half may have been taken out of its class before the trace."""
    original = vars(torch._C._FunctionBase)["apply"]

    def apply(kind: Any, *args: Any, **kwargs: Any) -> Any:
        if tracer.executing or not holds_proxy((args, kwargs)):
            return original.__get__(None, kind)(*args, **kwargs)
        tracer.record(FactKind.CUSTOM_FUNCTION, kind.__name__, "called as a whole, in float")
        return tracer.create_proxy("call_function", CustomFunctionCall(kind), args, kwargs)

    _SingleLevelFunction.apply = classmethod(apply)  # type: ignore[attr-defined]
    return functools.partial(delattr, _SingleLevelFunction, "apply")


def _call_scripts(tracer: ValueTracer) -> Undo:
    original = torch._C.ScriptFunction.__call__

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        if tracer.executing or not holds_proxy((args, kwargs)):
            return original(function, *args, **kwargs)
        tracer.record(FactKind.SCRIPTED, function.name, "called as a whole, in float")
        return tracer.create_proxy("call_function", ScriptCall(function), args, kwargs)

    torch._C.ScriptFunction.__call__ = call  # type: ignore[method-assign, assignment]
    return functools.partial(setattr, torch._C.ScriptFunction, "__call__", original)


def _opened_checkpoint(original: Any, tracer: ValueTracer) -> Any:
    own = ("use_reentrant", "context_fn", "determinism_check", "debug", "early_stop", "preserve_rng_state")

    @functools.wraps(original)
    def checkpoint(function: Any, *args: Any, **kwargs: Any) -> Any:
        if tracer.executing:
            return original(function, *args, **kwargs)
        tracer.record(FactKind.CHECKPOINT, getattr(function, "__name__", type(function).__name__), "opened")
        return function(*args, **{key: value for key, value in kwargs.items() if key not in own})

    return checkpoint
