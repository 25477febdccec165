"""The hooks of a module: which there are, what they are called, and where they are written."""

from __future__ import annotations

from typing import Any

from torch import nn

from fxquant.check.observation import Place
from fxquant.check.source_tree import Sources


def forward_hooks_of(module: nn.Module) -> list[Any]:
    """Hooks that run with forward."""
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]


def gradient_hooks_of(module: nn.Module) -> list[Any]:
    """Hooks that run with backward."""
    return [*module._backward_pre_hooks.values(), *module._backward_hooks.values()]


def name_of(hook: Any) -> str:
    """What a hook is called; an object that is one, by its class."""
    function = _function_of(hook)
    return str(getattr(function, "__qualname__", type(function).__name__))


def defined(function: Any, sources: Sources) -> Place:
    """Where a function is written; empty where that is not known."""
    code = getattr(_function_of(function), "__code__", None)
    if code is None:
        return Place()
    file = sources.file(code.co_filename)
    return Place(file.path, code.co_firstlineno, file.line(code.co_firstlineno))


def _function_of(hook: Any) -> Any:
    hook = getattr(hook, "func", hook)  # of a partial
    return getattr(hook, "__func__", hook)
