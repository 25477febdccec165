"""Functions whose call, by the user's code, is something that a graph does not hold."""

from __future__ import annotations

import functools
import inspect
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import CodeType, FrameType, MappingProxyType
from typing import Any

import torch
import torch.utils.checkpoint
from torch import nn
from torch.autograd.function import FunctionCtx

from fxquant.check.finding import FindingKind
from fxquant.check.user_frames import UserCode

# Frames between a function of torch and the code that meant to call it.
_GLUE = frozenset(("__enter__", "decorate_context", "decorate_autocast", "inner", "_fn", "wrapper", "__init__"))
_CONTAINERS = nn.Sequential.forward.__code__.co_filename
_CLOCKS = frozenset(
    (time.time, time.time_ns, time.perf_counter, time.perf_counter_ns, time.monotonic, time.process_time)
)
_RANDOM_MODULES = ("numpy.random", "secrets", "uuid")
_DATES = frozenset(("now", "utcnow", "today"))
_GRAD_QUESTIONS = frozenset((torch.is_grad_enabled, torch.is_inference_mode_enabled))


@dataclass(frozen=True)
class WatchedCall:
    """A call of a watched function.

    Attributes:
        kind: what it means.
        caller: the frame that called it.
        value: what was called, as text.
    """

    kind: FindingKind
    caller: FrameType | None
    value: str


def kind_of_call(frame: FrameType, user: UserCode) -> WatchedCall | None:
    """What the Python function that starts in ``frame`` means for a graph, when the user's code called it."""
    kind = _functions().get(frame.f_code)
    if kind is None:
        return None
    owner = frame.f_locals.get("cls", frame.f_locals.get("self"))
    name = owner.__name__ if isinstance(owner, type) else type(owner).__name__
    if kind is FindingKind.CUSTOM_FUNCTION and str(getattr(owner, "__module__", "")).startswith("torch."):
        return None
    caller = _beyond_constructors(frame) if kind is FindingKind.MODULE_IN_FORWARD else frame.f_back
    if caller is None or not _meant_by_user(caller, user):
        return None
    if isinstance(next(iter(caller.f_locals.values()), None), FunctionCtx):
        return None  # inside a function with a backward of its own, which is called as a whole
    if kind is FindingKind.GRAD_MODE and frame.f_code.co_name == "__init__" and caller.f_code.co_name == "__enter__":
        return None  # no_grad sets the mode by set_grad_enabled
    return WatchedCall(kind, caller, name if owner is not None else frame.f_code.co_name)


def kind_of_function(function: Any) -> FindingKind | None:
    """What a call of a function means for a graph, told by what it is and whose."""
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    home = str(getattr(function, "__module__", ""))
    if isinstance(owner, random.Random) or type(owner).__module__.startswith("numpy.random") or name == "urandom":
        return FindingKind.PYTHON_RANDOM
    if home.startswith(_RANDOM_MODULES):
        return FindingKind.PYTHON_RANDOM
    if name in _DATES and getattr(owner, "__module__", "") == "datetime":
        return FindingKind.TIME
    if owner is time:
        return FindingKind.TIME if function in _CLOCKS else None
    return FindingKind.GRAD_ENABLED if function in _GRAD_QUESTIONS else None


@functools.cache
def _functions() -> Mapping[CodeType, FindingKind]:
    blocks = {
        FindingKind.GRAD_MODE: (torch.no_grad, torch.enable_grad, torch.inference_mode),
        FindingKind.AUTOCAST: (torch.autocast,),
    }
    codes = {_code(kind.__enter__): found for found, kinds in blocks.items() for kind in kinds}
    codes[_code(torch.set_grad_enabled.__init__)] = FindingKind.GRAD_MODE
    codes[_code(torch.autograd.Function.apply)] = FindingKind.CUSTOM_FUNCTION
    codes[_code(torch.utils.checkpoint.checkpoint)] = FindingKind.CHECKPOINT
    codes[_code(nn.Module.__init__)] = FindingKind.MODULE_IN_FORWARD
    methods = [value for value in vars(random.Random).values() if inspect.isfunction(value)]
    public = [method for method in methods if not method.__name__.startswith("_")]
    return MappingProxyType({**codes, **dict.fromkeys(map(_code, public), FindingKind.PYTHON_RANDOM)})


def _code(function: Any) -> CodeType:
    code: CodeType = inspect.unwrap(getattr(function, "__func__", function)).__code__
    return code


def _beyond_constructors(frame: FrameType) -> FrameType | None:
    """The frame of who makes a module, or asks one of torch's containers for a part of it, ``self.layers[1:]``."""
    caller: FrameType | None = frame
    while caller is not None and (
        caller.f_code.co_name == "__init__" or caller.f_code.co_filename == _CONTAINERS or _is_of_dynamo(caller)
    ):
        caller = caller.f_back
    return caller


def _is_of_dynamo(frame: FrameType) -> bool:
    """Whether ``torch.compile``, once used in a process, wrapped its own function around torch's."""
    return str(frame.f_globals.get("__name__", "")).startswith("torch._dynamo.")


def _meant_by_user(caller: FrameType | None, user: UserCode) -> bool:
    """Whether the call comes from the user's code, with nothing but glue in between."""
    while caller is not None and not user.owns(caller.f_code):
        if caller.f_code.co_name not in _GLUE:
            return False
        if caller.f_code.co_name.startswith("decorate_"):  # the decorated function is the user's
            return True
        caller = caller.f_back
    return caller is not None
