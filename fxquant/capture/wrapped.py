"""Functions marked with ``torch.fx.wrap``: looked into where that is possible, recorded whole where it is not.

The mark is for tracers that fail inside; torchvision marks its windowed attention. Left whole, such a function would
be one float operator with all that it contains.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.fx import _symbolic_trace

from fxquant.capture.facts import FactKind
from fxquant.capture.structures import holds_proxy, leaves, unwrap
from fxquant.ir.edit import erase_after

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer


def open_wrapped_functions(tracer: ValueTracer) -> list[Callable[[], None]]:
    """Put ``tracer``'s way of calling wrapped functions in the place of torch.fx's; returns what undoes it."""
    marked = _symbolic_trace._wrapped_fns_to_patch
    undo: list[Callable[[], None]] = []
    for key, space in list(marked.items()):
        original = space.get(key[1])
        if isinstance(original, FunctionType):
            del marked[key]
            space[key[1]] = _traced(original, tracer)
            undo.append(functools.partial(space.__setitem__, key[1], original))
            undo.append(functools.partial(marked.__setitem__, key, space))
    return undo


def _traced(original: FunctionType, tracer: ValueTracer) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if tracer.executing or not holds_proxy((args, kwargs)):
            return original(*args, **kwargs)
        return _open(tracer, original, args, kwargs)

    call.opens = original  # type: ignore[attr-defined]
    return call


def _open(tracer: ValueTracer, function: FunctionType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record what ``function`` does; the call as a whole, and nothing else, where its inside cannot be traced."""
    mark, last, checked = tracer.recorder.mark(), tracer.graph._root._prev, dict(tracer.answers.checks.made)
    count = len(tracer.recorder.troubles)
    tensors = [leaf for leaf in leaves(unwrap((args, kwargs))) if isinstance(leaf, Tensor) and not leaf.is_inference()]
    versions = [(tensor, tensor._version) for tensor in tensors]
    early_end = tracer.answers.checks.early_end
    paused, early_end.paused = early_end.paused, True
    try:
        result = function(*args, **kwargs)
    except Exception as error:
        if _changed(versions):
            raise
        tracer.recorder.record(FactKind.WRAPPED_FUNCTION, f"{type(error).__name__}: {error}"[:200])
    else:  # what was changed in place would be changed twice by another call
        if all(trouble.optional for trouble in tracer.recorder.troubles[count:]) or _changed(versions):
            return result
    finally:
        early_end.paused = paused
    erase_after(tracer.graph, last)
    tracer.recorder.go_back(mark)
    tracer.answers.checks.made = checked
    tracer.recorder.record(FactKind.WRAPPED_FUNCTION, function.__name__, "called as a whole, in float")
    return tracer.create_proxy("call_function", function, args, kwargs)


def _changed(versions: list[tuple[Tensor, int]]) -> bool:
    return any(tensor._version != version for tensor, version in versions)
