"""Hooks on gradients, of modules and of tensors, and questions for ``requires_grad``.

Values are computed without gradients while a model is traced. What acts on gradients is kept whole in a graph that is
trained; a graph for inference goes without.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn
from torch.utils.hooks import RemovableHandle

from fxquant.capture.cut_gradients import follows_gradients
from fxquant.capture.facts import FactKind
from fxquant.capture.trouble import spots_around

if TYPE_CHECKING:
    from fxquant.capture.proxy import ValueProxy
    from fxquant.capture.tracer import ValueTracer

# Methods of tensors.
GRADIENT_HOOKS = frozenset(("register_hook", "register_post_accumulate_grad_hook", "retain_grad"))


def has_gradient_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks that run backward."""
    return bool(module._backward_hooks or module._backward_pre_hooks)


@contextmanager
def without_gradient_hooks(module: nn.Module) -> Iterator[None]:
    """Call a module without its hooks that run backward: torch looks for gradients of what it returns."""
    kept = {name: vars(module)[name] for name in ("_backward_hooks", "_backward_pre_hooks")}
    vars(module).update({name: OrderedDict() for name in kept})
    try:
        yield
    finally:
        vars(module).update(kept)


def look_at_gradient_hooks(tracer: ValueTracer, module: nn.Module, path: str) -> None:
    """Write down hooks that run backward: a module that is trained is kept whole with them."""
    if not has_gradient_hooks(module) or tracer.is_float_leaf(module, path):
        return
    if tracer.settings.trains:
        tracer.recorder.report(FactKind.MODULE_HOOK, path, spots=spots_around(path))
    else:
        tracer.record(FactKind.MODULE_HOOK, path, "left out: it acts on gradients, and the model is not trained")


def hook_on_tensor(tracer: ValueTracer) -> RemovableHandle:
    """Write down a hook on a value of the graph; returns what its registration gives."""
    tracer.report(FactKind.OPAQUE_CALL, "it acts on gradients")
    return handle()


def handle() -> RemovableHandle:
    """What the registration of a hook gives, for none."""
    return RemovableHandle(OrderedDict())


def asks_for_gradients(tracer: ValueTracer, proxy: ValueProxy) -> bool:
    """Whether a value has gradients in eager where they are recorded, and none under ``no_grad``."""
    if not tracer.settings.trains or not follows_gradients(proxy):
        return False
    tracer.report(FactKind.STATIC, "requires_grad")
    return True
