"""The user's hooks on modules that are swapped: they are called with what the quantized module gets and gives."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from fxquant.eager.fuse_modules import HOOKS, FusedReLU
from fxquant.eager.prepare import ObserveInput, ObserveOutput, without_observers
from fxquant.eager.recurrent import ObserveRecurrent

_OWN = (ObserveInput, ObserveOutput, ObserveRecurrent)


def keep_hooks(module: nn.Module, quantized: nn.Module) -> None:
    """Register the hooks of ``module``, but for those of observers, on the one in its place.

    Args:
        module: observed; of a layer with a fused relu, the layer's own hooks count too.
        quantized: changed in place.
    """
    for source in (module, module[0]) if isinstance(module, FusedReLU) else (module,):
        before: Any = source._forward_pre_hooks
        for key, hook in before.items():
            if not isinstance(hook, _OWN):
                named = key in source._forward_pre_hooks_with_kwargs
                quantized.register_forward_pre_hook(hook, with_kwargs=named)
        after: Any = source._forward_hooks
        for key, hook in after.items():
            if not isinstance(hook, _OWN):
                named, always = key in source._forward_hooks_with_kwargs, key in source._forward_hooks_always_called
                quantized.register_forward_hook(hook, with_kwargs=named, always_call=always)


def bare(module: nn.Module) -> nn.Module:
    """A copy of ``module`` without observers and hooks, to compute inside of a quantized one."""
    made = without_observers(copy.deepcopy(module))
    for name in HOOKS:
        getattr(made, name).clear()
    return made
