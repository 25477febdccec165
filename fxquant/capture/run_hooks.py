"""Calling a module that stays a module in the graph between its hooks, so that what they do is recorded.

A quantizer replaces such modules, and their hooks with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks of its own."""
    return any(getattr(module, name) for name in _HOOKS)


def remove_hooks(module: nn.Module) -> None:
    """Take the hooks off a module whose hooks are part of the graph."""
    for name in _HOOKS:
        getattr(module, name).clear()


def call_between_hooks(
    module: nn.Module, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """What ``module(*args, **kwargs)`` gives, with ``call`` in the place of its forward.

    Source: torch/nn/modules/module.py, ``Module._call_impl``.
    """
    for key, hook in list(module._forward_pre_hooks.items()):  # they may remove themselves
        if key in module._forward_pre_hooks_with_kwargs:
            changed = hook(module, args, kwargs)
            args, kwargs = (args, kwargs) if changed is None else changed
        else:
            changed = hook(module, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
    result = call(*args, **kwargs)
    for key, hook in list(module._forward_hooks.items()):
        if key in module._forward_hooks_with_kwargs:
            changed = hook(module, args, kwargs, result)
        else:
            changed = hook(module, args, result)
        result = result if changed is None else changed
    return result
