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

from fxquant.capture.proxy import ValueProxy
from fxquant.errors import CaptureError

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
        if tracer.executing or not _leaves((args, kwargs), ValueProxy):
            return original(*args, **kwargs)
        return _open(tracer, original, args, kwargs)

    return call


def _open(tracer: ValueTracer, function: FunctionType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record what ``function`` does; the call as a whole, and nothing else, where its inside cannot be traced."""
    guards, before = dict(tracer.guards), set(tracer.graph.nodes)
    values = [proxy.value for proxy in _leaves((args, kwargs), ValueProxy)]
    versions = [(tensor, tensor._version) for tensor in _leaves(values, Tensor) if not tensor.is_inference()]
    try:
        return function(*args, **kwargs)
    except CaptureError:
        if any(tensor._version != version for tensor, version in versions):  # a second call would change it twice
            raise
    for node in reversed(tracer.graph.nodes):
        if node not in before and node.op != "get_attr":  # parameters are recorded once, for all their readers
            tracer.graph.erase_node(node)
    tracer.guards = guards
    return tracer.create_proxy("call_function", function, args, kwargs)


def _leaves(structure: Any, kind: type) -> list[Any]:
    """What is of ``kind`` in nested containers."""
    if isinstance(structure, (tuple, list)):
        return [leaf for item in structure for leaf in _leaves(item, kind)]
    if isinstance(structure, dict):
        return _leaves(list(structure.values()), kind)
    return [structure] if isinstance(structure, kind) else []
