"""Calls of torch functions, seen as the user's code makes them.

A proxy is seen by most of torch's functions, but not by tensor factories that get no proxy, by ``torch.tensor``, nor by
methods and indexing of tensors that are no proxies. A torch function mode sees all of these.
"""

from __future__ import annotations

import functools
import operator
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, is_tensor_method_or_property

from fxquant.capture.attention import AttentionCall, attend
from fxquant.capture.facts import FactKind
from fxquant.capture.half_precision import to_float32
from fxquant.capture.proxy import ValueProxy
from fxquant.capture.record_calls import record_factory
from fxquant.capture.source import is_own_file
from fxquant.capture.structures import holds_proxy, leaves, rebuild, unwrap
from fxquant.ir.meta import storage_of

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

# Tensors that are made in forward: always recorded, so that what is written into them, or drawn, is.
FACTORIES = tuple(
    getattr(torch, name)
    for name in ("arange", "asarray", "as_tensor", "bartlett_window", "blackman_window", "empty", "empty_strided",
                 "eye", "full", "hamming_window", "hann_window", "kaiser_window", "linspace", "logspace", "normal",
                 "ones", "rand", "randint", "randn", "randperm", "range", "scalar_tensor", "tensor",
                 "tril_indices", "triu_indices", "zeros", "from_numpy", "vander", "empty_permuted")
)  # fmt: skip
_FACTORIES = frozenset((*FACTORIES, torch.fft.fftfreq, torch.fft.rfftfreq))
# Large literals are kept as tensors.
_LITERALS = frozenset((torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy))
_MOST_LITERALS = 16
_MOST_FRAMES = 12  # between a constructor and the factory that it calls

# Methods of tensors that are operators of Python.
_OPERATORS = {
    name: getattr(operator, name.strip("_"))
    for name in ("__getitem__", "__setitem__", "__add__", "__sub__", "__mul__", "__truediv__", "__floordiv__",
                 "__mod__", "__pow__", "__matmul__", "__and__", "__or__", "__xor__", "__iadd__", "__isub__", "__imul__",
                 "__itruediv__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")
    if hasattr(operator, name.strip("_"))
}  # fmt: skip
_OPERATORS |= {"__and__": operator.and_, "__or__": operator.or_}
_SWAPPED = {
    "__radd__": operator.add, "__rsub__": operator.sub, "__rmul__": operator.mul, "__rtruediv__": operator.truediv,
    "__rdiv__": operator.truediv, "__rfloordiv__": operator.floordiv, "__rpow__": operator.pow,
    "__rmod__": operator.mod, "__rmatmul__": operator.matmul,
}  # fmt: skip
_FACTS = frozenset((torch.is_floating_point, torch.is_complex, torch.is_grad_enabled))


class TracingMode(TorchFunctionMode):
    """Records what torch functions are called with while a model is traced."""

    def __init__(self, tracer: ValueTracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record the call of ``func`` where it is given proxies, or makes a tensor."""
        tracer, kwargs = self.tracer, kwargs or {}
        if tracer.executing:
            return func(*args, **kwargs)
        tracer.answers.integers.settle((args, kwargs))
        if func is Tensor.requires_grad_ and tracer.settings.trains:
            tracer.report(FactKind.GRAD_MODE, "requires_grad_")
            return func(*unwrap(args), **unwrap(kwargs))
        if holds_proxy((args, kwargs)):
            if func in _FACTORIES and makes_module(sys._getframe(1)):
                return make_weights(tracer, func, args, kwargs)
            return record_torch(tracer, func, args, kwargs)
        if makes_module(sys._getframe(1)):
            return func(*args, **kwargs)
        if func in _FACTORIES:
            return _make(tracer, func, args, kwargs)
        given = leaves((args, kwargs))
        of_model = any(isinstance(leaf, Tensor) and tracer.lowering.path_of(leaf) for leaf in given)
        asking = sys._getframe(1).f_code.co_filename
        if of_model and not is_own_file(asking) and asking != nn.Module.to.__code__.co_filename:  # of ``parameters()``
            args, kwargs = rebuild((args, kwargs), tracer.lowering.proxied)
            return record_torch(tracer, func, args, kwargs)
        before = [(leaf, leaf._version) for leaf in given if _has_version(leaf)]
        result = func(*args, **kwargs)
        if any(tensor._version != version and id(tensor) not in tracer.fresh for tensor, version in before):
            tracer.report(FactKind.WRITE_TO_CONSTANT, getattr(func, "__name__", "a write"))
        if isinstance(result, Tensor):
            old = [leaf for leaf in given if isinstance(leaf, Tensor) and id(leaf) not in tracer.fresh]
            result = result if tracer.precision is None else to_float32(result)
            with torch._C.DisableTorchFunction():
                views = any(storage_of(result) == storage_of(leaf) != 0 for leaf in old)  # as ``.data`` does
            if not views:
                tracer.fresh[id(result)] = result
        return result


def makes_module(frame: FrameType | None) -> bool:
    """Whether a call comes from the constructor of a module: its parameters are no values of the graph."""
    for _ in range(_MOST_FRAMES):
        if frame is None:
            break
        if frame.f_code.co_name == "__init__" and isinstance(frame.f_locals.get("self"), nn.Module):
            return True
        frame = frame.f_back
    return False


def make_weights(tracer: ValueTracer, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The tensor that the constructor of a module makes, which is given proxies: its weights are new at every call."""
    tracer.report(FactKind.MODULE_IN_FORWARD, "its weights are as large as an input")
    return function(*unwrap(args), **unwrap(kwargs))


def record_torch(tracer: ValueTracer, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record a call of a torch function or a method or attribute of tensors."""
    name = getattr(function, "__name__", "")
    if function in _FACTS:
        return _answer(tracer, function, args, kwargs)
    if function in _FACTORIES:
        record_factory(tracer, function, args, kwargs)
    if "inplace" in kwargs:
        kwargs = {**kwargs, "inplace": tracer.answers.in_place(kwargs["inplace"])}
    if function is F.multi_head_attention_forward:
        with TracingMode(tracer):
            return attend(AttentionCall(*args, **kwargs), functools.partial(_linear, tracer))
    if not is_tensor_method_or_property(function):
        return tracer.create_proxy("call_function", function, args, kwargs)
    if name == "__set__":  # of a parameter that the trace did not read: ``for p in model.parameters(): p.data = ...``
        return tracer.writes.set_on_tensor(args[0], function.__self__.__name__, args[1])
    if name == "__get__":
        return tracer.create_proxy("call_function", getattr, (args[0], function.__self__.__name__), {})
    if name in _OPERATORS:
        return tracer.create_proxy("call_function", _OPERATORS[name], args, kwargs)
    if name in _SWAPPED:
        return tracer.create_proxy("call_function", _SWAPPED[name], args[::-1], kwargs)
    return tracer.create_proxy("call_method", name, args, kwargs)


def _linear(tracer: ValueTracer, input: Any, weight: Any, bias: Any) -> Any:
    """A projection of an attention; one whose weight belongs to a child module runs in that module's name."""
    owner = str(weight.node.target).rpartition(".")[0] if isinstance(weight, ValueProxy) else ""
    inside = owner.startswith(f"{tracer.scope.module_path}.".removeprefix(".")) and weight.node.op == "get_attr"
    if not owner or not inside:
        return F.linear(input, weight, bias)
    with tracer.scope.entered(owner, tracer.root.get_submodule(owner)):
        return F.linear(input, weight, bias)


def _make(tracer: ValueTracer, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if function in _LITERALS:
        given = list(leaves(args))
        if len(given) > _MOST_LITERALS or any(type(item).__module__ == "numpy" for item in given):
            return tracer.lowering.constant(function(*args, **kwargs))
        if given and isinstance(given[0], Tensor):
            return function(*args, **kwargs)
    return tracer.create_proxy("call_function", function, args, kwargs)


def _answer(tracer: ValueTracer, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    found = function(*unwrap(args), **unwrap(kwargs))
    proxy = next((item for item in leaves((args, kwargs)) if isinstance(item, ValueProxy)), None)
    if proxy is None:
        tracer.record(FactKind.STATIC, found)
    else:
        tracer.answers.static(proxy, function.__name__, found)
    return found


def _has_version(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not leaf.is_inference()
