"""What decides which way the code of a layer goes: its attributes, those of its parts, and its arguments.

Two calls of layers with equal signatures run the same statements: layers whose code could look at, or do, anything else
have none (``plain_code``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from types import BuiltinFunctionType, FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fxquant.capture.cut_gradients import outside_gradients
from fxquant.capture.keep_state import version_of
from fxquant.capture.known_code import KnownCode
from fxquant.capture.plain_code import NotPlainError, Reading, is_record, is_torchs
from fxquant.capture.proxy import ValueProxy
from fxquant.capture.watched_code import WatchedCode
from fxquant.ir.meta import storage_of
from fxquant.ir.walk_modules import OF_EVERY_MODULE

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

_LITERALS = frozenset(
    (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format,
     type(...))
)  # fmt: skip
_MAPPINGS = (dict, OrderedDict)
_CONTAINERS = (*_MAPPINGS, tuple, list, set, frozenset, torch.Size)
_NUMBERS = (int, float, bool, torch.Size)
_OF_PROXIES = frozenset(
    ("node", "tracer", "value", "depends", "shape_depends", "outside_grad", "from_part", "parts_of")
)


class UnlikeError(Exception):
    """There is no telling whether something is like something else."""


class UnknownCodeError(UnlikeError):
    """The code of a layer may do something else than compute."""


class LayerSignature:
    """The signature of one call.

    Args:
        tracer: of the trace.
        known: what is known of classes.
        path: of the layer.

    Attributes:
        nodes: of what the layer is given, by their nodes, in order.
        containers: ids of the lists and dictionaries that it holds or is given.
    """

    def __init__(self, tracer: ValueTracer, known: KnownCode, path: str) -> None:
        self._tracer = tracer
        self._known = known
        self._prefix = f"{path}."
        self._seen: dict[int, int] = {}
        self._kinds: set[type] = set()
        self._storages: dict[int, int] = {}
        self.nodes: dict[fx.Node, ValueProxy] = {}
        self.containers: set[int] = set()

    def of_layer(self, layer: nn.Module) -> Hashable:
        """Everything that a layer holds and that its code may read.

        Raises:
            UnlikeError: it holds objects that are more than their attributes, or tensors of a class of their own, with
                attributes or with hooks.
            UnknownCodeError: its code may look at something else.
        """
        known = self._known
        expected = known.met_in.get(type(layer), frozenset())
        try:
            found, kinds = self._of_all(layer, expected)
            if kinds != expected:  # what it holds is of other classes than in the layer before
                known.met_in[type(layer)] = kinds
                found, _ = self._of_all(layer, kinds)
            return found, known.outside(type(layer), kinds)
        except NotPlainError:
            raise UnknownCodeError from None

    def of_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        """What a layer is called with, and where; ``nodes`` gets the proxies among it, by their nodes, in order.

        Raises:
            UnlikeError: there is something else in it than tensors, numbers and containers of those, or autocast is on.
        """
        if torch._C._is_any_autocast_enabled():
            raise UnlikeError
        modes = outside_gradients(), torch._C._len_torch_function_stack(), torch.get_default_dtype()
        return modes, self._given(args), self._given(kwargs)

    # -- insides ------------------------------------------------------------------------------------

    def _of_all(self, layer: nn.Module, kinds: frozenset[type]) -> tuple[Hashable, frozenset[type]]:
        """What a layer holds and code of some classes may read, and the classes that what it holds is of."""
        self._seen, self._kinds, self._reading = {}, set(), self._known.read_by(type(layer), kinds)
        return self._module(layer), frozenset(self._kinds)

    def _module(self, module: nn.Module) -> Hashable:
        if id(module) in self._seen:
            return "again", self._seen[id(module)]
        path = (self._tracer.submodule_paths or {}).get(module)
        if path is None or self._tracer.is_float_leaf(module, path):
            raise UnlikeError
        return self._attributes(module, None if self._known.is_read_by_torch(type(module)) else self._reading)

    def _object(self, value: Any) -> Hashable:
        if id(value) in self._seen:
            return "again", self._seen[id(value)]
        if not is_record(type(value)):
            raise UnlikeError
        is_compared_by_all = type(value) is SimpleNamespace
        which = id(value) if isinstance(self._reading, WatchedCode) else 0  # code may ask whether it is another one
        return which, self._attributes(value, None if is_compared_by_all else self._reading)

    def _attributes(self, owner: Any, reading: Reading | WatchedCode | None) -> Hashable:
        """What an object holds, without numbers and texts that ``reading`` does not read."""
        kind = type(owner)
        self._seen[id(owner)] = len(self._seen)
        if not is_torchs(kind):
            self._kinds.add(kind)
        held = []
        for name, item in vars(owner).items():
            of_every = name in OF_EVERY_MODULE
            if of_every and not isinstance(item, bool) and not item:  # no hooks, no buffers, no children
                continue
            is_fixed = of_every or reading is None or type(item) not in _LITERALS
            if is_fixed or (reading is not None and reading.may_read(name, kind)):
                held.append((name, self._held(item)))
        return kind, tuple(held)

    def _held(self, value: Any) -> Hashable:
        kind = type(value)
        if kind in _LITERALS:
            return _key(value)
        if kind in _CONTAINERS:
            return self._container(kind, value)
        if isinstance(value, np.generic):
            return kind, value.tobytes()
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, nn.Module):
            if not (self._tracer.submodule_paths or {}).get(value, "").startswith(self._prefix):
                raise UnlikeError
            return self._module(value)
        if isinstance(value, (FunctionType, BuiltinFunctionType, type)) and is_torchs(value):
            return "torch", id(value)
        if isinstance(value, FunctionType) and isinstance(self._reading, WatchedCode):
            return self._reading.content_of(value)  # what it does is watched
        return self._object(value)

    def _container(self, kind: type, value: Any) -> Hashable:
        if id(value) in self._seen:
            return "again", self._seen[id(value)]
        self._seen[id(value)] = len(self._seen)
        self.containers.add(id(value))
        if kind in _MAPPINGS:
            return kind, tuple([(_key(key), self._held(item)) for key, item in value.items()])
        if kind in (set, frozenset):
            return kind, tuple(map(_key, value))
        return kind, tuple([self._held(item) for item in value])

    def _tensor(self, value: Tensor) -> Hashable:
        hooks = value._backward_hooks or getattr(value, "_post_accumulate_grad_hooks", None)
        if type(value) not in (Tensor, nn.Parameter) or hooks or value.__dict__:
            raise UnlikeError
        path = self._tracer.lowering.path_of(value)
        if path is None:  # of nobody: whoever holds it may write into it
            path = f"{id(value)} {version_of(value)}"
        where = path.removeprefix(self._prefix) if path.startswith(self._prefix) else f"/{path}"
        number = value.item() if value.numel() == 1 and not value.is_floating_point() else None
        return where, *_of_tensor(value), value.requires_grad, number

    def _given(self, argument: Any) -> Hashable:
        kind = type(argument)
        if isinstance(argument, ValueProxy):
            return self._proxy(argument)
        if kind in _LITERALS:
            return _key(argument)
        self.containers.add(id(argument))
        if kind in (tuple, list, torch.Size):
            return kind, tuple([self._given(item) for item in argument])
        if kind is dict:
            return kind, tuple([(_key(key), self._given(item)) for key, item in argument.items()])
        raise UnlikeError

    def _proxy(self, proxy: ValueProxy) -> Hashable:
        value, known = proxy.value, (proxy.depends, proxy.shape_depends, proxy.outside_grad, proxy.node.op)
        if proxy.from_part or proxy.parts_of is not None or not vars(proxy).keys() <= _OF_PROXIES:
            raise UnlikeError
        self.nodes.setdefault(proxy.node, proxy)
        index = list(self.nodes).index(proxy.node)
        if type(value) in _NUMBERS:
            return index, known, type(value), value
        if type(value) not in (Tensor, nn.Parameter) or value.is_meta:
            raise UnlikeError
        memory = self._storages.setdefault(storage_of(value), len(self._storages))
        return index, known, memory, *_of_tensor(value)


def _of_tensor(value: Tensor) -> tuple[Hashable, ...]:
    if value.layout is not torch.strided:
        raise UnlikeError
    return type(value), value.shape, value.stride(), value.dtype, value.device


def _key(key: Any) -> Hashable:
    if type(key) not in _LITERALS:
        raise UnlikeError
    return type(key), repr(key) if type(key) in (float, complex) else key
