"""The functions, methods and classes that files may name. Nothing else is ever looked up without the user's modules.

Left out is all that reads or writes files, imports, or runs code that it is given.
"""

from __future__ import annotations

import builtins
import importlib
import inspect
import math
import operator
import pkgutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, MethodType, WrapperDescriptorType
from typing import Any

import torch
import torch.nn.functional
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

_BUILTINS = (
    "abs", "all", "any", "bool", "complex", "dict", "divmod", "enumerate", "float", "frozenset", "getattr", "hasattr",
    "int", "len", "list", "max", "min", "pow", "range", "reversed", "round", "set", "slice", "sorted", "str", "sum",
    "tuple", "zip",
)  # fmt: skip
_NAMESPACES = (
    "torch.nn.functional",
    "torch.functional",
    "torch.special",
    "torch.linalg",
    "torch.fft",
    "torch.nn.utils.rnn",
)
_TENSOR_METHODS = "torch.Tensor"
_CALLABLE = (BuiltinFunctionType, FunctionType, MethodDescriptorType, MethodType, WrapperDescriptorType)
_FORBIDDEN = frozenset(
    ("from_file", "load", "save", "compile", "set_default_device", "import_ir_module", "attrgetter", "methodcaller",
     "call", "handle_torch_function", "has_torch_function", "boolean_dispatch", "overload")
)  # fmt: skip
_OPERATOR_NAMESPACES = ("aten", "prims", "quantized", "onednn", "fxquant", "torchvision", "mkldnn", "_quantized")
_OWN = ("fxquant.ir.checks", "fxquant.ir.write_back", "fxquant.ir.rebuild", "fxquant.ops.",
        "fxquant.backends.native.kernels.")  # fmt: skip
_METHOD_OWNERS = (Tensor, list, tuple, dict, set, str, int, float, slice, range, torch.Size, PackedSequence)


def name_of(function: Any) -> str | None:
    """The name that files know a function or type by, None for all they may not name."""
    return _names().get(id(function))


def function_of(name: str) -> Any:
    """The function or type of a name.

    Raises:
        ValueError: files may not name it.
    """
    if name not in _functions():
        raise ValueError(f"the function {name!r} is not one that files may name")
    return _functions()[name]


def may_call_operator(path: str) -> bool:
    """Whether files may name an operator of ``torch.ops``.

    Args:
        path: ``namespace.name.overload``.
    """
    namespace, _, rest = path.partition(".")
    return namespace in _OPERATOR_NAMESPACES and rest.partition(".")[0] not in _FORBIDDEN


def is_public(name: Any) -> bool:
    """Whether ``name`` is an attribute that no underscore protects; through others all of Python can be reached."""
    return isinstance(name, str) and name.isidentifier() and not name.startswith("_")


def may_call_method(name: Any) -> bool:
    """Whether files may call a method of that name: a tensor's or a container's."""
    return isinstance(name, str) and name in _methods()


@cache
def _methods() -> frozenset[str]:
    public = {name for kind in _METHOD_OWNERS for name in dir(kind) if is_public(name)}
    arithmetic = {name for name in vars(operator) if name.startswith("__") and callable(getattr(operator, name))}
    return frozenset((public | arithmetic) & {name for kind in _METHOD_OWNERS for name in dir(kind)})


@cache
def _functions() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, function in _candidates():
        found.setdefault(name, function)
    return found


@cache
def _names() -> dict[int, str]:
    found: dict[int, str] = {}
    for name, function in _functions().items():
        found.setdefault(id(function), name)
    return found


def _candidates() -> Iterator[tuple[str, Any]]:
    """Every name with its function."""
    for name in _BUILTINS:
        yield f"builtins.{name}", getattr(builtins, name)
    yield "torch.Tensor", Tensor
    yield "torch.Size", torch.Size
    for module in (operator, math):
        for name in dir(module):
            if isinstance(getattr(module, name), BuiltinFunctionType) and name not in _FORBIDDEN:
                yield f"{module.__name__}.{name}", getattr(module, name)
    for path in _NAMESPACES:
        space = importlib.import_module(path)
        for name in dir(space):
            function = getattr(space, name)
            if not name.startswith("__") and name not in _FORBIDDEN and _is_torchs(function):
                yield f"{path}.{name}", function
    for name in dir(torch._C._VariableFunctions):
        if not name.startswith("__") and name not in _FORBIDDEN and hasattr(torch, name):
            yield f"torch.{name}", getattr(torch, name)
    for name in (*torch.functional.__all__, "is_tensor", "sym_int", "sym_float", "sym_max", "sym_min", "sym_not"):
        yield f"torch.{name}", getattr(torch, name)
    for name in dir(Tensor):
        function = inspect.getattr_static(Tensor, name)
        if isinstance(function, _CALLABLE) and (is_public(name) or name in _methods()):
            yield f"{_TENSOR_METHODS}.{name}", getattr(Tensor, name)
    yield from _own_functions()


def _is_torchs(function: Any) -> bool:
    return isinstance(function, _CALLABLE) and str(getattr(function, "__module__", None) or "torch").startswith("torch")


def _own_functions() -> Iterator[tuple[str, Any]]:
    """What graphs call of fxquant's own: checks, operators of the catalogue, kernels."""
    for item in pkgutil.walk_packages([str(Path(__file__).parents[1])], "fxquant."):
        if item.name.startswith(_OWN):
            for name, function in vars(importlib.import_module(item.name)).items():
                if isinstance(function, FunctionType) and function.__module__ == item.name and is_public(name):
                    yield f"{item.name}.{name}", function
