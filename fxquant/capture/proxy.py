"""Proxies that know the value they stand for.

A ``ValueProxy`` records operations like ``torch.fx.Proxy`` and holds the real result of its operation on
the example inputs. Asked for something Python must know now (a truth value, a length, an integer), it
answers from that value and the tracer records the question with its source line. The value lives as long
as the user's own variable does: nodes and the tracer keep only its description.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.proxy import Attribute

# Attributes that are facts of the example: answered at once and recorded, never traced.
_STATIC_ATTRIBUTES = frozenset(
    [
        "dtype",
        "device",
        "layout",
        "ndim",
        "is_cuda",
        "is_cpu",
        "is_sparse",
        "is_quantized",
        "is_meta",
        "is_mps",
        "is_mkldnn",
        "is_xpu",
        "requires_grad",
        "is_leaf",
        "itemsize",
        "is_nested",
        "is_vulkan",
        "is_xla",
    ]
)
_STATIC_METHODS = frozenset(
    [
        "dim",
        "ndimension",
        "is_floating_point",
        "is_complex",
        "is_contiguous",
        "is_signed",
        "get_device",
        "element_size",
        "is_inference",
        "is_pinned",
    ]
)


class ValueProxy(fx.Proxy):
    """A proxy and the value it has on the example inputs.

    Attributes:
        value: a tensor, number, size, tuple, ... Never a copy: in-place operations change it as in eager.
    """

    tracer: Any  # a ValueTracer

    def __init__(self, node: fx.Node, tracer: Any, value: Any) -> None:
        super().__init__(node, tracer)
        self.value = value

    def __repr__(self) -> str:
        return f"ValueProxy({self.node.name})"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and not hasattr(self.value, name):
            raise AttributeError(name)
        attribute = getattr(self.value, name)  # AttributeError as in eager
        if name in _STATIC_ATTRIBUTES:
            self.tracer.record("static", attribute)
            return attribute
        if attribute is None:  # the code is about to ask whether there is one, such as a PackedSequence's indices
            self.tracer.record("static", None)
            return None
        if name in _STATIC_METHODS:
            return self._static_method(name)
        if callable(attribute) and not isinstance(attribute, Tensor):
            return ValueAttribute(self, name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def _static_method(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = getattr(self.value, name)(*args, **kwargs)
            self.tracer.record("static", result)
            return result

        return call

    def __bool__(self) -> bool:
        if isinstance(self.value, Tensor):
            return bool(self.tracer.tensor_branch(self, "branches on"))
        self.tracer.record("branch", bool(self.value))
        return bool(self.value)

    def __len__(self) -> int:
        self.tracer.record("static" if isinstance(self.value, (tuple, list, dict)) else "size", len(self.value))
        return len(self.value)

    def __index__(self) -> int:
        if isinstance(self.value, Tensor):
            self.tracer.tensor_branch(self, "takes an integer from")
        self.tracer.record("size", self.value)
        return operator.index(self.value)

    def __int__(self) -> int:
        if isinstance(self.value, Tensor):
            self.tracer.tensor_branch(self, "takes an integer from")
        self.tracer.record("size", self.value)
        return int(self.value)

    def __float__(self) -> float:
        if isinstance(self.value, Tensor):
            self.tracer.tensor_branch(self, "takes a number from")
        self.tracer.record("size", self.value)
        return float(self.value)

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.value, dict):
            return iter(list(self.value))
        count = len(self.value)
        self.tracer.record("size" if isinstance(self.value, Tensor) else "static", count)
        return iter([self[i] for i in range(count)])  # type: ignore[index]

    def __contains__(self, item: Any) -> bool:
        answer = unwrap(item) in self.value
        self.tracer.record("branch", answer)
        return bool(answer)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    def __str__(self) -> str:
        return str(self.value)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def keys(self) -> Any:
        return self.value.keys()

    def __deepcopy__(self, memo: dict[int, Any]) -> ValueProxy:
        return self


class ValueAttribute(Attribute):
    """An attribute that was callable on the value: calling it records a method call."""

    def __repr__(self) -> str:
        return f"{self.root!r}.{self.attr}"


def _in_place(name: str) -> Any:
    function = getattr(operator, name)

    def method(self: ValueProxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "imatmul"):
    setattr(ValueProxy, f"__{_name}__", _in_place(_name))


def unwrap(structure: Any) -> Any:
    """Replace every proxy in nested containers by its value.

    Containers without proxies are returned as they are, so identity is kept where it can be.
    """
    if isinstance(structure, ValueProxy):
        return structure.value
    if isinstance(structure, Attribute):
        return getattr(unwrap(structure.root), structure.attr)
    if isinstance(structure, (tuple, list)) and not isinstance(structure, torch.Size):
        items = [unwrap(item) for item in structure]
        if all(new is old for new, old in zip(items, structure, strict=True)):
            return structure
        if hasattr(structure, "_fields"):
            return type(structure)(*items)
        return type(structure)(items) if type(structure) in (tuple, list) else tuple(items)
    if isinstance(structure, dict):
        return {key: unwrap(item) for key, item in structure.items()}
    if isinstance(structure, slice):
        return slice(unwrap(structure.start), unwrap(structure.stop), unwrap(structure.step))
    return structure
