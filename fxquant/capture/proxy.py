"""Proxies that know the value they stand for.

A ``ValueProxy`` records operations like ``torch.fx.Proxy`` and holds the real result of its operation on
the example inputs. Asked for something Python must know now (a truth value, a length, an integer), it
answers from that value and the tracer records the question with its source line. The value lives as long
as the user's own variable does: nodes and the tracer keep only its description.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.proxy import Attribute

from fxquant.capture.class_patterns import Matched
from fxquant.capture.facts import RECORDED, FactKind
from fxquant.capture.numpy_operators import numpy_operator
from fxquant.capture.source import is_user_file
from fxquant.ir.ancestors import with_ancestors
from fxquant.ir.write_back import set_attribute

# Attributes that are facts of the example: answered at once and recorded, never traced.
_STATIC_ATTRIBUTES = frozenset(
    ("dtype", "device", "layout", "ndim", "is_cuda", "is_cpu", "is_sparse", "is_quantized", "is_meta", "is_mps",
     "is_mkldnn", "is_xpu", "requires_grad", "is_leaf", "itemsize", "is_nested", "is_vulkan", "is_xla", "grad_fn",
     "names", "_version", "grad", "is_sparse_csr", "is_maia", "is_mtia", "is_ipu", "output_nr", "retains_grad")
)  # fmt: skip
_STATIC_METHODS = frozenset(
    ("dim", "ndimension", "is_floating_point", "is_complex", "is_contiguous", "is_signed", "get_device",
     "element_size", "is_inference", "is_pinned", "is_conj", "is_neg", "is_coalesced", "is_shared", "has_names",
     "storage", "untyped_storage", "data_ptr", "storage_offset", "is_distributed")
)  # fmt: skip
_STORAGES = ("storage", "untyped_storage")
_NAMES_NODE = frozenset(
    ("node", "tracer", "value", "depends", "shape_depends", "outside_grad", "from_part", "parts_of")
)


class Depends(IntEnum):
    """What a number, or the values or the shape of a tensor, depend on."""

    NOTHING = 0  # the model alone
    SIZES = 1  # sizes of the inputs
    VALUES = 2  # values of the inputs, random numbers, or state


class ValueProxy(Matched, fx.Proxy):
    """A proxy and the value it has on the example inputs.

    Attributes:
        value: a tensor, number, size, tuple, ... Never a copy: in-place operations change it as in eager.
        depends: what the value depends on; of a tensor, its numbers.
        shape_depends: what the shape of a tensor depends on.
        outside_grad: whether it was computed in a block without gradients.
        parts_of: what decides how many parts there are, of a tensor that was taken apart.
        from_part: whether it is, or was taken out of, what a part that runs as Python gives.
    """

    tracer: Any  # a ValueTracer

    def __init__(
        self,
        node: fx.Node,
        tracer: Any,
        value: Any,
        depends: Depends = Depends.VALUES,
        shape_depends: Depends = Depends.SIZES,
    ) -> None:
        super().__init__(node, tracer)
        self.value = value
        self.depends = depends
        self.shape_depends = shape_depends
        self.outside_grad = False
        self.from_part = False
        self.parts_of: tuple[Any, ...] | None = None

    def __repr__(self) -> str:
        self.tracer.answers.text(self)  # also asked by what holds it: ``str([height, width])``
        return repr(self.value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and not hasattr(self.value, name):
            raise AttributeError(name)
        if isinstance(self.value, dict) and name in ("items", "values"):
            return self._items if name == "items" else self._values
        try:
            attribute = getattr(self.value, name)
        except AttributeError:  # as in eager, which may be asked whether it is there
            if self.from_part and is_user_file(sys._getframe(1).f_code.co_filename):
                self.tracer.answers.checks.check_missing(self, name)
            raise
        if name in _STATIC_ATTRIBUTES and isinstance(self.value, Tensor):
            if name == "requires_grad" and not attribute and self.tracer.asks_for_gradients(self):
                return True
            self.tracer.answers.static(self, name, attribute)
            return attribute
        if name in _STATIC_METHODS and isinstance(self.value, Tensor):
            return self._static_method(name)
        if attribute is None or isinstance(attribute, (torch.dtype, torch.device, type)):
            return attribute
        if callable(attribute) and not isinstance(attribute, Tensor):
            return ValueAttribute(self, name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    @classmethod
    def __torch_function__(cls, orig_method: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = [item for item in (*args, *(kwargs or {}).values()) if isinstance(item, ValueProxy)]
        if not found:  # inside a container
            return super().__torch_function__(orig_method, types, args, kwargs)
        return found[0].tracer.call_torch(orig_method, args, kwargs or {})

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _NAMES_NODE:
            object.__setattr__(self, name, value)
        elif isinstance(self.value, Tensor) and name in ("data", "grad"):
            self.tracer.writes.set_on_tensor(self, name, value)
        elif isinstance(self.value, Tensor) or not hasattr(self.value, "__dict__"):
            object.__setattr__(self, name, value)
        else:  # an object in a list of any length
            self.tracer.create_proxy("call_function", set_attribute, (self, name, value), {})

    def _static_method(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "is_contiguous" and self.tracer.answers.of_input(self):
                return self.tracer.create_proxy("call_method", name, (self, *args), kwargs)
            result = getattr(self.value, name)(*args, **kwargs)
            if name in _STORAGES and self.depends is not Depends.NOTHING:  # its size and bytes are the example's
                self.tracer.report(FactKind.OPAQUE_CALL, name)
            else:
                self.tracer.answers.static(self, name, result)
            return result

        return call

    def __bool__(self) -> bool:
        return bool(self.tracer.answers.branch(self))

    def __len__(self) -> int:
        return self.tracer.answers.lengths.of(self)  # type: ignore[no-any-return]

    def __index__(self) -> int:
        return operator.index(self.tracer.answers.integers.index(self))

    def __int__(self) -> int:
        return int(self.tracer.answers.number(self))

    def __float__(self) -> float:
        return float(self.tracer.answers.number(self))

    def __complex__(self) -> complex:
        return complex(self.tracer.answers.number(self))

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.value, dict):
            return iter(list(self.keys()))
        count = self.tracer.answers.lengths.of(self)
        return iter([self[i] for i in range(count)])  # type: ignore[index]

    def __reversed__(self) -> Iterator[Any]:
        return iter(list(self)[::-1])

    def __contains__(self, item: Any) -> bool:
        return bool(self.tracer.create_proxy("call_function", operator.contains, (self, item), {}))

    def __hash__(self) -> int:
        if isinstance(self.value, (int, float, str, tuple, torch.dtype)):
            return hash(self.tracer.answers.number(self))
        return object.__hash__(self)

    def __format__(self, spec: str) -> str:
        self.tracer.answers.text(self)
        return format(self.value, spec)

    def __str__(self) -> str:
        self.tracer.answers.text(self)
        return str(self.value)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.record(FactKind.ITEM_ASSIGNMENT, "", RECORDED)
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __delitem__(self, index: Any) -> None:
        self.tracer.create_proxy("call_function", operator.delitem, (self, index), {})

    def keys(self) -> Any:
        self.tracer.answers.lengths.of(self)
        return self.value.keys()

    def _items(self) -> Any:
        return [(key, self[key]) for key in self.keys()]  # type: ignore[index]

    def _values(self) -> Any:
        return [self[key] for key in self.keys()]  # type: ignore[index]

    def __mul__(self, other: Any) -> Any:
        return self._times(other, (self, other))

    def __rmul__(self, other: Any) -> Any:
        return self._times(other, (other, self))

    def _times(self, other: Any, operands: tuple[Any, Any]) -> Any:
        if type(other) in (list, tuple) and any(isinstance(getattr(item, "value", item), Tensor) for item in other):
            return other * operator.index(self)  # as many tensors: no product
        return self.tracer.create_proxy("call_function", operator.mul, operands, {})

    def __divmod__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", divmod, (self, other), {})

    def __rdivmod__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", divmod, (other, self), {})

    def __round__(self, digits: int | None = None) -> Any:
        args = (self,) if digits is None else (self, digits)
        return self.tracer.create_proxy("call_function", round, args, {})

    def __array_ufunc__(self, function: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        if method != "__call__":
            return NotImplemented
        own = numpy_operator(function, args) if isinstance(self.value, Tensor) else None
        if own is not None:  # eager leaves it to the tensor
            first = args[0].item() if isinstance(args[0], np.generic) else args[0]
            return self.tracer.create_proxy("call_function", own, (first, self), {})
        self.tracer.record(FactKind.TENSOR_NUMPY, function.__name__, RECORDED)
        return self.tracer.create_proxy("call_function", function, args, kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        self.tracer.record(FactKind.TENSOR_NUMPY, function.__name__, RECORDED)
        return self.tracer.create_proxy("call_function", function, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if self.tracer.executing or not isinstance(self.value, Tensor):
            return self
        return self.tracer.create_proxy("call_method", "clone", (self,), {})

    def __copy__(self) -> ValueProxy:
        return self


class ValueAttribute(Attribute):
    """An attribute that was callable on the value: calling it records a method call."""

    def __repr__(self) -> str:
        return f"{self.root!r}.{self.attr}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        root: Any = self.root
        return root.tracer.call_method(root, self.attr, args, kwargs)

    def __bool__(self) -> bool:
        return True

    def __hash__(self) -> int:
        return object.__hash__(self)


def _in_place(name: str) -> Any:
    function = getattr(operator, name)

    def method(self: ValueProxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "imatmul",
              "ilshift", "irshift"):  # fmt: skip
    setattr(ValueProxy, f"__{_name}__", _in_place(_name))


def is_of_state(proxy: ValueProxy) -> bool:
    """Whether parameters or buffers decide a number that depends on no input: ``self.scale.item()``."""
    return isinstance(proxy.value, Tensor) or any(node.op == "get_attr" for node in with_ancestors([proxy.node]))
