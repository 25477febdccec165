"""Patches that are in force while a model is traced, and undone after.

Some functions never look at their arguments' ``__torch_function__``, and some do things that leave no trace in a graph:
blocks without gradients, random numbers of Python's, writes to attributes. While tracing they are replaced by
stand-ins that answer from a proxy's value, record a node, or write down what happens.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import CellType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules import transformer
from torch.nn.utils import rnn

from fxquant.capture.builtins_on_proxies import builtins_for
from fxquant.capture.facts import FactKind
from fxquant.capture.generic_functions import dispatching_on_values, generic_functions
from fxquant.capture.gradient_hooks import GRADIENT_HOOKS, handle
from fxquant.capture.namespaces import cached_functions, replace_names, user_namespaces
from fxquant.capture.patch_effects import patch_blocks, patch_environment, patch_functions, patch_module_class
from fxquant.capture.patch_random import RANDOM_AND_TIME, random_stand_ins
from fxquant.capture.record_calls import record_factory
from fxquant.capture.source import is_user_file
from fxquant.capture.structures import holds_proxy, unwrap
from fxquant.capture.torch_mode import TracingMode, make_weights, makes_module, record_torch
from fxquant.capture.wrapped import open_wrapped_functions

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

Undo = Callable[[], None]
# Take sizes one by one: ``torch.zeros(n, 4)``. torch does not see that ``n`` is a proxy.
_SIZES_ONE_BY_ONE = ("zeros", "ones", "empty", "rand", "randn")
_METHODS = ("expand", "new_zeros", "new_ones", "new_empty", "new_full", "reshape", "tile", "permute", "flip", "movedim")
# Recorded as a whole when they are given proxies.
_WHOLE = (
    torch.from_numpy, torch.broadcast_shapes, rnn.pack_padded_sequence, rnn.pad_packed_sequence, rnn.pack_sequence,
    rnn.pad_sequence, rnn.unpad_sequence, rnn.unpack_sequence,
)  # fmt: skip


@contextmanager
def patched(tracer: ValueTracer, kinds: Collection[type]) -> Iterator[None]:
    """Put the patches in force for a trace of a model whose modules are of some classes, or derived from these."""
    undone: list[Undo] = []
    try:
        undone.extend(_patches(tracer, kinds))
        with TracingMode(tracer):
            yield
    finally:
        for undo in reversed(undone):
            undo()


def _patches(tracer: ValueTracer, kinds: Collection[type]) -> Iterator[Undo]:
    """Make one patch after the other, each with what undoes it."""
    stand_ins = {original: _recording(original, tracer) for original in _WHOLE}
    stand_ins |= {getattr(torch, name): _factory(getattr(torch, name), tracer) for name in _SIZES_ONE_BY_ONE}
    stand_ins |= {function: _answer(function, tracer) for function in (torch.finfo, torch.iinfo)}
    for asks in (torch.is_grad_enabled, torch.is_inference_mode_enabled):
        stand_ins[asks] = _asking(asks, FactKind.GRAD_ENABLED, tracer)
    builtin = builtins_for(tracer)
    stand_ins[torch.is_tensor] = lambda thing: builtin["isinstance"](thing, Tensor)
    yield from _replace_in(torch, stand_ins)
    yield from _replace_in(rnn, stand_ins)
    anew = random_stand_ins(tracer)
    for module in RANDOM_AND_TIME:
        yield from _replace_in(sys.modules.get(module), anew)
    stand_ins |= anew
    yield from _methods(tracer)
    yield from _gradient_hooks(tracer)
    yield from patch_module_class(tracer)
    yield from patch_blocks(tracer)
    yield from patch_environment(tracer)
    yield from patch_functions(tracer, stand_ins)
    spaces = user_namespaces(kinds)
    stand_ins |= {item: dispatching_on_values(item) for space in spaces for item in generic_functions(space)}
    for where, name, function in cached_functions(spaces, kinds):
        yield _set(where, name, _uncached(function, tracer))
    yield from replace_names(spaces, builtin, {id(key): value for key, value in stand_ins.items()})
    yield from _open_transformers()
    yield from open_wrapped_functions(tracer)


def _replace_in(module: Any, stand_ins: dict[Any, Any]) -> Iterator[Undo]:
    for original, stand_in in list(stand_ins.items()):
        name = getattr(original, "__name__", "")
        if module is not None and vars(module).get(name) is original:
            yield _set(vars(module), name, stand_in)


def _set(where: Any, name: str, new: Any) -> Undo:
    """Set an entry of a namespace, or an attribute of a class; returns what undoes it."""
    if isinstance(where, dict):
        old = where[name]
        where[name] = new
        return functools.partial(where.__setitem__, name, old)
    if isinstance(where, CellType):
        old = where.cell_contents
        where.cell_contents = new
        return functools.partial(setattr, where, name, old)
    inherited = name not in vars(where)
    old = None if inherited else vars(where)[name]
    setattr(where, name, new)
    return functools.partial(delattr, where, name) if inherited else functools.partial(setattr, where, name, old)


def _factory(original: Callable[..., Any], tracer: ValueTracer) -> Callable[..., Any]:
    def create(*args: Any, **kwargs: Any) -> Any:
        if tracer.executing or not holds_proxy((args, kwargs)):
            return original(*args, **kwargs)
        if makes_module(sys._getframe(1)):
            return make_weights(tracer, original, args, kwargs)
        record_factory(tracer, original, args, kwargs)
        return tracer.create_proxy("call_function", original, args, kwargs)

    return create


def _recording(original: Callable[..., Any], tracer: ValueTracer) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if tracer.executing or not holds_proxy((args, kwargs)):
            return original(*args, **kwargs)
        return tracer.create_proxy("call_function", original, args, kwargs)

    return call


def _answer(original: Callable[..., Any], tracer: ValueTracer) -> Callable[..., Any]:
    def answer(*args: Any, **kwargs: Any) -> Any:
        precision, (given, named) = tracer.precision, (unwrap(args), unwrap(kwargs))
        if precision is not None and given == (torch.float32,) and not named:
            given = (precision.dtype,)  # a limit that the model itself would have: for masks, float32's is infinite
        return original(*given, **named)

    answer.stands_for = original  # type: ignore[attr-defined]
    return answer


def _asking(original: Callable[[], Any], kind: FactKind, tracer: ValueTracer) -> Callable[[], Any]:
    def ask() -> Any:
        found = original()
        if is_user_file(sys._getframe(1).f_code.co_filename) and not tracer.executing:
            tracer.answers.asked_of_gradients(tracer.recorder.record(kind, found))
        return found

    return ask


def _methods(tracer: ValueTracer) -> Iterator[Undo]:
    """Methods of tensors that are no proxies, given proxies as sizes: ``constant.expand(n, 4)``."""
    for name in _METHODS:
        original = getattr(Tensor, name)

        def call(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
            if tracer.executing or not holds_proxy((args, kwargs)):
                return _original(*args, **kwargs)
            record_factory(tracer, _original, args, kwargs)
            return record_torch(tracer, _original, args, kwargs)

        functools.update_wrapper(call, original)
        yield _set(Tensor, name, call)


def _gradient_hooks(tracer: ValueTracer) -> Iterator[Undo]:
    """Hooks of tensors: parts that run as Python run without gradients while they are traced, and do without."""
    for name in GRADIENT_HOOKS:
        original = getattr(Tensor, name)

        @functools.wraps(original)
        def call(tensor: Tensor, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            if tracer.executing and not tensor.requires_grad:
                return handle()
            return _original(tensor, *args, **kwargs)

        yield _set(Tensor, name, call)


def _uncached(cached: Any, tracer: ValueTracer) -> Any:
    """A function with a cache, or a static or class method, called without it: what is kept must not hold proxies."""
    if isinstance(cached, (staticmethod, classmethod)):
        return type(cached)(_uncached(cached.__func__, tracer))

    @functools.wraps(cached.__wrapped__)
    def call(*args: Any, **kwargs: Any) -> Any:
        function = cached if tracer.executing else cached.__wrapped__
        return function(*args, **kwargs)

    call.cache_clear = cached.cache_clear  # type: ignore[attr-defined]
    call.cache_info = cached.cache_info  # type: ignore[attr-defined]
    return call


def _open_transformers() -> Iterator[Undo]:
    """Make torch.nn's transformers run module by module, with masks as data.

    Their fused paths would be one opaque operator a layer. Whether a mask happens to be causal is a question about its
    values: the answer "no" is right for every mask, since the mask itself is then used.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield lambda: torch.backends.mha.set_fastpath_enabled(fused)
    yield _set(vars(transformer), "_detect_is_causal_mask", _detect_is_causal_mask)
    yield _set(vars(F), "_none_or_dtype", lambda mask: None if mask is None else mask.dtype)
    yield from _skip_marks()
    dynamo: Any = sys.modules.get("torch._dynamo.config")
    if dynamo is not None:  # what is compiled runs as it was written
        before = dynamo.error_on_nested_fx_trace
        dynamo.error_on_nested_fx_trace = False
        yield functools.partial(setattr, dynamo, "error_on_nested_fx_trace", before)


def _skip_marks() -> Iterator[Undo]:
    """Let hints for the compiler pass that are given proxies."""
    dynamo = sys.modules.get("torch._dynamo")
    for name in ("mark_static_address", "mark_static", "mark_dynamic", "maybe_mark_dynamic", "mark_unbacked"):
        original = getattr(dynamo, name, None)
        if original is not None:
            yield _set(vars(dynamo), name, _marking(original))


def _marking(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def mark(*args: Any, **kwargs: Any) -> Any:
        return None if holds_proxy(args) else original(*args, **kwargs)

    return mark


def _detect_is_causal_mask(mask: Any, is_causal: bool | None = None, size: Any = None) -> bool:
    return is_causal is True
