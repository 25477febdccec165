"""Attributes of modules and tensors that forward sets while it is traced."""

from __future__ import annotations

import inspect
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.capture.facts import FactKind
from fxquant.capture.keep_state import Change
from fxquant.capture.proxy import ValueProxy
from fxquant.capture.structures import unwrap
from fxquant.ir.contents import contents, same_contents

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

# With ``max_norm`` they shorten rows of their table, in eager and in a graph alike: nothing else is made of that.
RENORMALIZING = (F.embedding, F.embedding_bag)
_CHANGES_CONTAINER = frozenset(
    ("append", "extend", "insert", "pop", "popitem", "clear", "update", "setdefault", "remove", "discard", "reverse",
     "sort", "setitem", "delitem", "add", "iadd", "imul", "ior", "iand", "isub", "ixor", "move_to_end",
     "difference_update", "intersection_update", "symmetric_difference_update", "itruediv", "ifloordiv", "imod", "ipow",
     "appendleft", "extendleft", "popleft", "rotate", "fill", "put", "partition")
)  # fmt: skip


class AttributeWrites:
    """What forward wrote in one trace.

    Args:
        tracer: the trace.

    Attributes:
        pending: what stands for a buffer since forward replaced it, by the buffer's path.
        replaced: those of them that forward replaced as a whole: plain attributes of the user's model, and buffers
            that got another shape or dtype.
        own_modules: ids of the modules of the model.
    """

    def __init__(self, tracer: ValueTracer) -> None:
        self.tracer = tracer
        self.pending: dict[str, ValueProxy] = {}
        self.replaced: list[Change] = []
        self.own_modules: set[int] = set()

    def update_buffers(self) -> None:
        """Let the graph copy what buffers were set to into them, when the model has run."""
        tracer = self.tracer
        for path, proxy in self.pending.items():
            if not any(f"{change.module_path}.{change.name}".lstrip(".") == path for change in self.replaced):
                tracer.create_proxy("call_method", "copy_", (tracer.lowering.attribute(path), proxy), {})

    def set_on_tensor(self, tensor: Any, name: str, value: Any) -> None:
        """``x.data = y``: what a graph cannot do. ``x`` may be a proxy."""
        self.tracer.report(FactKind.OPAQUE_CALL, f"sets .{name}")
        with torch._C.DisableTorchFunction():
            setattr(unwrap(tensor), name, unwrap(value))

    def set_on_module(self, module: nn.Module, name: str, value: Any) -> bool:
        """Take note that forward sets an attribute of a module; whether that is all there is to do."""
        if id(module) not in self.own_modules:
            return False  # a module that forward is making
        if isinstance(inspect.getattr_static(type(module), name, None), property):
            return False  # what its setter sets is noted
        recorder = self.tracer.recorder
        buffer = module._buffers.get(name)
        if not isinstance(value, ValueProxy) or buffer is None:
            kind = FactKind.BUFFER_UPDATE if name in module._buffers else FactKind.ATTRIBUTE_UPDATE
            recorder.record(kind, name)
            return False
        path, made = self.tracer.lowering.path_of(buffer), value.value
        fits = isinstance(made, Tensor) and made.shape == buffer.shape and made.dtype == buffer.dtype
        if path in self.tracer.settings.plain_tensors or (path is not None and not fits):
            recorder.record(FactKind.ATTRIBUTE_UPDATE, name)
            self.pending[str(path)] = value
            owner, _, attribute = str(path).rpartition(".")
            self.replaced.append(Change(owner, attribute))
            return True
        recorder.record(FactKind.BUFFER_UPDATE, name, "the graph updates the buffer")
        if path is not None and made is not buffer:
            self.pending[path] = value
        return True


def changed_container(kind: str, target: Any, args: tuple[Any, ...]) -> tuple[str, ...]:
    """Name of the node whose list, dictionary or array a call changes, in a tuple; () for other calls."""
    first = args[0] if args else None
    if not isinstance(first, ValueProxy) or not isinstance(first.value, (list, dict, set, deque, np.ndarray)):
        return ()
    name = target if kind == "call_method" else getattr(target, "__name__", "")
    return (first.node.name,) if name in _CHANGES_CONTAINER else ()


class Arrays:
    """NumPy's arrays among the arguments of a call, looked at before and after it.

    Args:
        given: all that the arguments hold.
    """

    def __init__(self, given: list[Any]) -> None:
        found = [(leaf, leaf.value if isinstance(leaf, ValueProxy) else leaf) for leaf in given]
        self._before = [(leaf, array, contents(array, 1)) for leaf, array in found if type(array) is np.ndarray]

    def changed(self, tracer: ValueTracer) -> tuple[str, ...]:
        """Names of the nodes whose arrays the call changed; other arrays would be constants: that is reported."""
        names = []
        for leaf, array, before in self._before:
            if not same_contents(before, contents(array, 1)):
                if isinstance(leaf, ValueProxy):
                    names.append(leaf.node.name)
                else:
                    tracer.report(FactKind.WRITE_TO_CONSTANT, "an array that is no value of the graph")
        return tuple(names)


def changed_tensors(target: Any, proxies: list[ValueProxy], changed: set[int]) -> tuple[str, ...]:
    """Names of the nodes whose tensors a call changes.

    Args:
        target: of the call.
        proxies: what it is given.
        changed: ids of the tensors that are not as they were.
    """
    if target in RENORMALIZING:
        return ()
    return tuple(proxy.node.name for proxy in proxies if id(proxy.value) in changed)
