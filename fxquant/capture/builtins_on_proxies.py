"""Python's builtins as the user's code sees them while it is traced.

``int(h * 1.5)`` must be an integer at once, and ``max(h, w)`` asks which is larger: the graph would keep the example's
answer. Here they are recorded as operations on numbers when they are given proxies, and sizes stay symbolic.
"""

from __future__ import annotations

import builtins
import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fxquant.capture.facts import RECORDED, FactKind
from fxquant.capture.proxy import Depends, ValueProxy
from fxquant.capture.structures import holds_proxy
from fxquant.ir.checks import count_steps

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

# Names that classes of the same name are tested for: ``isinstance(x, int)``.
_CLASSES = ("int", "float", "complex")
_FUNCTIONS = ("len", "round", "max", "min", "abs", "divmod", "pow")
# What Python asks the operand itself for: ``abs(x)`` is ``x.__abs__()``.
_OF_OPERANDS = (round, abs, divmod, pow)
# What plain tracing cannot do with a size.
_STOPPING = (int, float, complex, round, max, min)


def builtins_for(tracer: ValueTracer) -> dict[str, Any]:
    """What stands for each builtin, by its name."""
    made: dict[str, Any] = {name: _recorded(tracer, getattr(builtins, name)) for name in _FUNCTIONS}
    made |= {name: _class_for(tracer, getattr(builtins, name)) for name in _CLASSES}
    made["isinstance"] = functools.partial(_isinstance, tracer)
    made["type"] = _type_for(tracer)
    made["range"] = _range_for(tracer)
    return made


def stands_for_builtin(value: Any) -> bool:
    """Whether a value is what stands for a builtin in the user's code."""
    is_test = isinstance(value, functools.partial) and value.func is _isinstance
    return is_test or "stands_for" in getattr(value, "__dict__", ())


def _recorded(tracer: ValueTracer, original: Callable[..., Any]) -> Callable[..., Any]:
    number = original in (int, float, complex)

    @functools.wraps(original, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        if tracer.executing or kwargs or not args or not holds_proxy(args):
            return original(*args, **kwargs)
        first = args[0]
        if original is len and not _has_recorded_length(tracer, first):
            return original(*args)
        if number and _is_tensor(first):
            tracer.record(FactKind.TENSOR_NUMBER, original.__name__, RECORDED)
        if original in _OF_OPERANDS and any(_is_tensor(item) for item in args):
            return original(*args)  # the tensor's own operator
        if not all(_is_number(item) for item in (first if isinstance(first, (list, tuple)) else args)):
            return original(*args)
        if original in _STOPPING and not any(_depends_on_values(item) for item in args):
            tracer.record(FactKind.SIZE, "", RECORDED)
        return tracer.create_proxy("call_function", original, args, {})

    call.stands_for = original  # type: ignore[attr-defined]
    return call


def _class_for(tracer: ValueTracer, original: type) -> Any:
    """A stand-in for a class of numbers, which may be called, tested for, and named in a pattern."""
    made = _recorded(tracer, original)

    class Metaclass(type):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return made(*args, **kwargs)

        def __instancecheck__(cls, thing: Any) -> bool:
            return _isinstance(tracer, thing, original)

        def __subclasscheck__(cls, kind: Any) -> bool:
            return issubclass(kind, original)

        def __eq__(cls, other: object) -> bool:
            return other is original or other is cls

        def __hash__(cls) -> int:
            return hash(original)

    return Metaclass(original.__name__, (original,), {"stands_for": original})


def _range_for(tracer: ValueTracer) -> Any:
    """``range``: of a loop that is unrolled, only how often it runs is built in; where it starts stays symbolic."""

    def call(*args: Any) -> Any:
        proxies = [item for item in args if isinstance(item, ValueProxy)]
        if tracer.executing or not proxies or any(proxy.depends is not Depends.SIZES for proxy in proxies):
            return range(*args)
        if tracer.answers.lengths.loop_runs_as_python():
            return range(*args)
        steps = tracer.create_proxy("call_function", count_steps, args, {})
        start, step = (0 if len(args) == 1 else args[0]), (args[2] if len(args) > 2 else 1)
        return [start + index * step if index else start for index in range(tracer.answers.lengths.of_loop(steps))]

    call.stands_for = range  # type: ignore[attr-defined]
    return call


def _depends_on_values(item: Any) -> bool:
    return isinstance(item, ValueProxy) and item.depends is Depends.VALUES


def _has_recorded_length(tracer: ValueTracer, item: Any) -> bool:
    return isinstance(item, ValueProxy) and (_is_tensor(item) or tracer.is_whole(item))


def _is_tensor(item: Any) -> bool:
    return isinstance(item, ValueProxy) and isinstance(item.value, Tensor)


def _is_number(item: Any) -> bool:
    """Whether the builtin treats ``item`` as one number, or one list of numbers in a proxy."""
    return isinstance(item, (ValueProxy, int, float, complex))


def _isinstance(tracer: ValueTracer, thing: Any, kind: Any) -> bool:
    """``isinstance`` as user code sees it: a proxy is a proxy, and whatever its value is."""
    kind = _real(kind)
    if builtins.isinstance(thing, kind):
        return True
    if not builtins.isinstance(thing, ValueProxy):
        return False
    answer = builtins.isinstance(thing.value, kind)
    if isinstance(thing.value, Tensor) and any(map(_tells_dtype, kind if type(kind) is tuple else (kind,))):
        tracer.answers.static(thing, "dtype", answer)
    if answer:  # for a proxy that plain tracing has in its place it is False, too
        tracer.record(FactKind.TYPE_TEST, answer)
    if not tracer.executing:
        tracer.answers.checks.check_type(thing)
    return answer


def _tells_dtype(kind: Any) -> bool:
    """Whether a class is one of those like ``torch.FloatTensor``."""
    return builtins.isinstance(kind, type(torch.FloatTensor))


def _real(kind: Any) -> Any:
    """The class that a builtin's stand-in stands for."""
    if type(kind) is tuple:
        return tuple(_real(item) for item in kind)
    return getattr(kind, "stands_for", kind)


def _type_for(tracer: ValueTracer) -> Any:
    class Metaclass(type):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            if len(args) != 1:
                return type(*args, **kwargs)
            kind = type(args[0])
            if issubclass(kind, ValueProxy):
                kind = type(args[0].value)
                tracer.record(FactKind.TYPE_TEST, kind.__name__)
                if not tracer.executing:
                    tracer.answers.checks.check_type(args[0])
            named = sys._getframe(1).f_globals.get(kind.__name__)  # ``type(n) is int`` asks for what it names
            return named if _real(named) is kind else kind

        def __instancecheck__(cls, thing: Any) -> bool:
            return isinstance(thing, type)

        def __subclasscheck__(cls, kind: Any) -> bool:
            return issubclass(kind, type)

        def __eq__(cls, other: object) -> bool:
            return other is type or other is cls

        def __hash__(cls) -> int:
            return hash(type)

    class Type(type, metaclass=Metaclass):
        """``type`` of a proxy is that of its value."""

    Type.stands_for = type  # type: ignore[attr-defined]
    return Type
