"""Patches that are in force while a model is traced, and undone after.

Some functions never look at their arguments' ``__torch_function__``: tensor factories, ``torch.finfo``,
``isinstance``. Given a proxy they fail, or take the wrong branch silently. While tracing they are replaced
by wrappers that answer from the proxy's value or record a node.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules import transformer

from fxquant.capture.proxy import ValueProxy, unwrap
from fxquant.capture.wrapped import open_wrapped_functions

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

# Tensors that models write into: always recorded, so that what is written is.
_FRESH = ("zeros", "ones", "empty", "full")
_FACTORIES = (*_FRESH, "arange", "linspace", "eye", "tensor", "as_tensor", "rand", "randn")


def _holds_proxy(arguments: Any) -> bool:
    if isinstance(arguments, (tuple, list)):
        return any(_holds_proxy(item) for item in arguments)
    if isinstance(arguments, dict):
        return any(_holds_proxy(item) for item in arguments.values())
    return isinstance(arguments, fx.Proxy)


def _factory(original: Callable[..., Any], tracer: ValueTracer) -> Callable[..., Any]:
    always = original.__name__ in _FRESH

    def create(*args: Any, **kwargs: Any) -> Any:
        if tracer.executing or not (always or _holds_proxy(args) or _holds_proxy(kwargs)):
            return original(*args, **kwargs)
        return tracer.create_proxy("call_function", original, args, kwargs)

    return create


def _answer(original: Callable[..., Any]) -> Callable[..., Any]:
    def answer(*args: Any, **kwargs: Any) -> Any:
        return original(*unwrap(args), **unwrap(kwargs))

    return answer


def _fact(original: Callable[..., Any], tracer: ValueTracer) -> Callable[..., Any]:
    def fact(*args: Any, **kwargs: Any) -> Any:
        found = original(*unwrap(args), **unwrap(kwargs))
        if _holds_proxy(args) or _holds_proxy(kwargs):
            tracer.record("static", found)
        return found

    return fact


def _isinstance(thing: Any, kind: Any) -> bool:
    """``isinstance`` as user code sees it: a proxy is a proxy, and whatever its value is."""
    if builtins.isinstance(thing, kind):
        return True
    return builtins.isinstance(thing, ValueProxy) and builtins.isinstance(thing.value, kind)


@contextmanager
def patched(tracer: ValueTracer, model: nn.Module) -> Iterator[None]:
    """Put the patches in force for tracing ``model``."""
    undo: list[Callable[[], None]] = []
    for name in _FACTORIES:
        undo.append(_replace(torch.__dict__, name, _factory(getattr(torch, name), tracer)))
    for name in ("finfo", "iinfo"):
        undo.append(_replace(torch.__dict__, name, _answer(getattr(torch, name))))
    for name in ("is_floating_point", "is_complex"):
        undo.append(_replace(torch.__dict__, name, _fact(getattr(torch, name), tracer)))
    undo.append(_replace(torch.__dict__, "is_tensor", lambda thing: _isinstance(thing, Tensor)))
    undo += _open_transformers()
    undo += open_wrapped_functions(tracer)
    for name in {type(module).__module__ for module in model.modules()}:
        namespace = vars(sys.modules[name]) if name in sys.modules else {}
        if namespace and not name.startswith("torch.") and "isinstance" not in namespace:
            namespace["isinstance"] = _isinstance
            undo.append(lambda space=namespace: space.pop("isinstance", None))  # type: ignore[misc]
    try:
        yield
    finally:
        for step in undo:
            step()


def _open_transformers() -> list[Callable[[], None]]:
    """Make torch.nn's transformers run module by module, with masks as data; returns what undoes it.

    Their fused paths would be one opaque operator a layer. Whether a mask happens to be causal is a question about its
    values: the answer "no" is right for every mask, since the mask itself is then used.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    return [
        lambda: torch.backends.mha.set_fastpath_enabled(fused),
        _replace(vars(transformer), "_detect_is_causal_mask", _detect_is_causal_mask),
        _replace(vars(F), "_none_or_dtype", lambda mask: None if mask is None else mask.dtype),
    ]


def _detect_is_causal_mask(mask: Any, is_causal: bool | None = None, size: Any = None) -> bool:
    return is_causal is True


def _replace(namespace: dict[str, Any], name: str, new: Any) -> Callable[[], None]:
    old = namespace[name]
    namespace[name] = new
    return lambda: namespace.__setitem__(name, old)
