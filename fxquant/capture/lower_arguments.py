"""What the user's code passes to an operation, or returns, as arguments that a graph's nodes can have.

Tensors of the model become ``get_attr`` nodes, one per tensor; objects and mappings are made again by nodes of their
own; what else there is, such as a configuration, is kept as a constant of the graph.
"""

from __future__ import annotations

import dataclasses
import enum
import operator
from collections import deque
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from fxquant.capture.contained_modules import contained_modules
from fxquant.capture.facts import FactKind
from fxquant.capture.hidden_values import hides_values
from fxquant.capture.keep_state import version_of
from fxquant.capture.matched import type_for
from fxquant.capture.proxy import Depends, ValueProxy
from fxquant.capture.structures import has_parts, holds_tensor, unwrap
from fxquant.ir.rebuild import Rebuild, Refill, complete

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

_PLAIN = (int, float, bool, str, type(None), complex, bytes, torch.dtype, torch.device, torch.layout,
          torch.memory_format, type(...))  # fmt: skip


Describe = Callable[[fx.Node, Any], None]


class ArgumentLowering:
    """Lowers arguments for one trace.

    Args:
        tracer: whose graph gets the nodes.
    """

    def __init__(self, tracer: ValueTracer) -> None:
        self.tracer = tracer
        self._paths: dict[int, str] = {}
        self._tensors: dict[str, Tensor] = {}
        self._proxies: dict[str, ValueProxy] = {}
        self._read: dict[str, tuple[fx.Node, Any]] = {}
        self._constants: dict[int, tuple[Any, ValueProxy]] = {}
        self._contained: set[int] | None = None

    # -- attributes of the model --------------------------------------------------------------------

    def name_attributes(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Learn the paths of parameters and buffers of the model."""
        for path, tensor in tensors:
            self._paths.setdefault(id(tensor), path)
            self._tensors[path] = tensor

    def path_of(self, tensor: Tensor) -> str | None:
        """Path of a parameter or buffer of the model; None for other tensors."""
        return self._paths.get(id(tensor))

    def attribute(self, path: str) -> ValueProxy:
        """The proxy of a parameter, buffer or constant."""
        if path not in self._proxies:
            tracer = self.tracer
            with (
                tracer.nothing_recorded(),
                torch._C.DisableTorchFunction(),
            ):  # what is looked up is no call of the user's
                node, value = self.read(path, tracer.describe)
            self._proxies[path] = type_for(value)(node, tracer, value, Depends.NOTHING, Depends.NOTHING)
        return self._proxies[path]

    def read(self, path: str, describe: Describe) -> tuple[fx.Node, Any]:
        """The node of a parameter, buffer or constant and its value; ``describe`` tells about the node when it is new.

        Called where nothing is recorded.
        """
        if path not in self._read:
            value = self.value_at(path)
            node = self.tracer.create_node("get_attr", path, (), {}, path.replace(".", "_"))
            describe(node, value)
            self._read[path] = node, value
        return self._read[path]

    def value_at(self, path: str) -> Any:
        """The parameter, buffer or constant at a path."""
        if path in self._read:
            return self._read[path][1]
        value = self._tensors.get(path)
        return operator.attrgetter(path)(self.tracer.root) if value is None else value

    def proxied(self, leaf: Any) -> Any:
        """The proxy of a parameter or buffer of the model, anything else as it is."""
        path = self.path_of(leaf) if isinstance(leaf, Tensor) else None
        return leaf if path is None else self.attribute(path)

    def constant(self, value: Any) -> ValueProxy:
        """The proxy of a value that is no attribute of the model yet."""
        if id(value) not in self._constants:
            title = "_tensor_constant" if isinstance(value, Tensor) else f"_{type(value).__name__}_constant"
            name = self.tracer.get_fresh_qualname(title)
            if isinstance(value, Tensor) and self._is_written(value):
                self.tracer.report(FactKind.WRITE_TO_CONSTANT, "a tensor that forward writes into")
            kept = value.detach() if isinstance(value, Tensor) and not value.is_leaf else value
            with self.tracer.nothing_recorded():  # it is not the user's code that sets it
                setattr(self.tracer.root, name, kept)
            self.tracer.constants[name] = kept
            self._constants[id(value)] = value, self.attribute(name)
        return self._constants[id(value)][1]

    def _is_written(self, tensor: Tensor) -> bool:
        """Whether a tensor outside the model changed since an earlier trace met it: by a part that runs as Python."""
        version = version_of(tensor)
        _, before = self.tracer.settings.versions.setdefault(id(tensor), (tensor, version))
        return version != before

    def contained_modules(self) -> set[int]:
        """Ids of modules that the model keeps in plain lists, tuples, dictionaries, objects and functions."""
        if self._contained is None:
            self._contained = contained_modules(self.tracer.root)
        return self._contained

    # -- arguments ----------------------------------------------------------------------------------

    def lower(self, a: Any) -> Any:
        """The argument for a node."""
        kind = type(a)
        if kind in _PLAIN:
            return a
        if kind in (tuple, list, torch.Size):
            return (list if kind is list else tuple)(self._item(item) for item in a)
        if isinstance(a, fx.Node):
            return a
        if isinstance(a, fx.Proxy):
            return a.node
        if isinstance(a, Tensor):
            path = self.path_of(a)
            return (self.constant(a) if path is None else self.attribute(path)).node
        if kind is slice:
            return slice(self._item(a.start), self._item(a.stop), self._item(a.step))
        if kind is dict and all(isinstance(key, (str, int, tuple)) for key in a):
            return {key: self._item(item) for key, item in a.items()}
        if kind is range or isinstance(a, (torch._ops.OpOverload, torch._ops.HigherOrderOperator)):
            return a
        if isinstance(a, enum.Enum) and not isinstance(a, (int, str)):
            return self.constant(a).node
        if isinstance(a, FunctionType):
            a = vars(a).get("stands_for", a)  # what takes its place during a trace
            if hides_values(a):
                raise TypeError(f"{a.__qualname__} keeps values of the trace")
        if isinstance(a, nn.Module):
            raise TypeError(f"a {kind.__name__} is passed to a function that is kept whole")
        return self._make(a)

    def _item(self, a: Any) -> Any:
        return self.tracer.create_arg(a)

    def _make(self, a: Any) -> Any:
        """Named tuples, mappings of a class of their own, and objects."""
        kind = type(a)
        if isinstance(a, deque):
            return self._node(kind, ([self._item(item) for item in a], a.maxlen), {}, a)
        if isinstance(a, (list, tuple)):
            if hasattr(a, "_fields"):
                return self._node(kind, tuple(self._item(item) for item in a), {}, a)
            return self._complete(self._node(kind, ([self._item(item) for item in a],), {}, a), {}, a)
        if not holds_tensor(a):
            return self.constant(a).node
        if dataclasses.is_dataclass(a) and (isinstance(a, dict) or not hasattr(a, "__dict__")):
            fields = [field for field in dataclasses.fields(a) if field.init]
            named = {field.name: self._item(getattr(a, field.name)) for field in fields}
            made = self._node(kind, (), named, a)
            entries: dict[Any, Any] = dict(a) if isinstance(a, dict) else {}
            return self._complete(made, {key: item for key, item in entries.items() if key not in named}, a)
        if isinstance(a, dict):
            made = self._node(Refill(kind), ({key: self._item(item) for key, item in a.items()},), {}, a)
            return self._complete(made, {}, a)
        if has_parts(a) and not isinstance(a, FunctionType):
            return self._node(Rebuild(kind), ({key: self._item(item) for key, item in vars(a).items()},), {}, a)
        raise NotImplementedError(f"a {kind.__name__} that holds tensors")

    def _complete(self, made: fx.Node, entries: dict[Any, Any], a: Any) -> fx.Node:
        """A container with entries and attributes that it does not have by being made.

        Args:
            made: the node of it.
            entries: to be added.
            a: what it stands for.
        """
        attributes = {} if dataclasses.is_dataclass(a) else getattr(a, "__dict__", {})
        if not entries and not attributes:
            return made
        parts = ({key: self._item(item) for key, item in given.items()} for given in (entries, attributes))
        return self._node(complete, (made, *parts), {}, a)

    def _node(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> fx.Node:
        node = self.tracer.create_node("call_function", target, args, kwargs)
        self.tracer.describe(node, unwrap(value))
        return node
