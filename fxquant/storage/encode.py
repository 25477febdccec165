"""Values as JSON. What JSON has no word for is an object with the key ``$`` that says what it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from enum import Enum
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.errors import FxquantError
from fxquant.ir.float_part import ForwardCall, PartCode
from fxquant.ir.named_call import CustomFunctionCall, NamedCall
from fxquant.ir.rebuild import Rebuild, Refill
from fxquant.ir.records import TorchOp
from fxquant.storage.names import may_call_operator, name_of
from fxquant.storage.own_classes import class_name, is_data
from fxquant.storage.tensor_table import TensorWriter
from fxquant.storage.user_code import is_container, is_users, name_of_user

_CONTAINERS: dict[type, str] = {tuple: "tuple", set: "set", frozenset: "frozenset", torch.Size: "size"}
_TORCH_CONSTANTS = (torch.dtype, torch.layout, torch.memory_format, torch.qscheme)


class Encoder:
    """Encodes values.

    Args:
        tensors: collects the tensors.
        modules: encodes a module and returns its number.

    Attributes:
        required: what loading needs of the user's, by name, with the first place that needs it.
    """

    def __init__(self, tensors: TensorWriter, modules: Callable[[nn.Module, str], int]) -> None:
        self.tensors, self.modules = tensors, modules
        self.required: dict[str, str] = {}

    def encode(self, value: Any, where: str) -> Any:
        """Encode a value.

        Args:
            value: anything that models hold.
            where: it is, for messages.

        Raises:
            FxquantError: files cannot hold it.
        """
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"$": "float", "value": repr(value)}
        if kind is list:
            return [self.encode(item, f"{where}[{index}]") for index, item in enumerate(value)]
        if kind in _CONTAINERS:
            items = [self.encode(item, f"{where}[{index}]") for index, item in enumerate(value)]
            return {"$": _CONTAINERS[kind], "items": items}
        if isinstance(value, Tensor):
            return {"$": "tensor", "number": self.tensors.add(value, where)}
        if isinstance(value, nn.Module):
            return {"$": "module", "number": self.modules(value, where)}
        found = self._constant(value) or self._own(value, where) or self._callable(value, where)
        return found or self._users(value, where)

    def class_of_user(self, kind: Any, where: str) -> str:
        """Name of a class or function of the user's, which loading will need."""
        name = name_of_user(kind, where)
        self.required.setdefault(name, where)
        return name

    def _constant(self, value: Any) -> dict[str, Any] | None:
        if isinstance(value, _TORCH_CONSTANTS):
            return {"$": "torch", "name": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"$": "device", "name": str(value)}
        if value is ...:
            return {"$": "ellipsis"}
        if type(value) is complex:
            return {"$": "complex", "value": [repr(value.real), repr(value.imag)]}
        return None

    def _own(self, value: Any, where: str) -> dict[str, Any] | None:
        """Slices, dictionaries, dataclasses, enumerations and named tuples."""
        kind = type(value)
        if kind in (slice, range):
            parts = [self.encode(part, where) for part in (value.start, value.stop, value.step)]
            return {"$": kind.__name__, "items": parts}
        if isinstance(value, Enum) and class_name(kind):
            return {"$": "enum", "class": class_name(kind), "value": value.value}
        if isinstance(value, TorchOp) and not may_call_operator(value.path):
            raise FxquantError(f"{where} calls torch.ops.{value.path}, which files may not name", op=value.path)
        if is_data(kind):
            fields = {
                item.name: self.encode(getattr(value, item.name), f"{where}.{item.name}")
                for item in dataclasses.fields(value)
                if item.init and not _is_default(item, getattr(value, item.name))
            }
            return {"$": "data", "class": class_name(kind), "fields": fields}
        if isinstance(value, dict) and (kind is dict or class_name(kind)):
            items = [[self.encode(key, where), self.encode(item, f"{where}[{key!r}]")] for key, item in value.items()]
            return {"$": "dict", "items": items, **({} if kind is dict else {"class": class_name(kind)})}
        if isinstance(value, tuple) and class_name(kind):
            return {"$": "named", "class": class_name(kind), "items": [self.encode(item, where) for item in value]}
        return None

    def _callable(self, value: Any, where: str) -> dict[str, Any] | None:
        """Functions, and fxquant's objects that stand for calls."""
        name = name_of(value)
        if name is not None:
            return {"$": "function", "name": name}
        if isinstance(value, NamedCall):
            return {"$": "drawn", "module": value.module, "name": value.name}
        if isinstance(value, Rebuild):
            return {"$": "refill" if isinstance(value, Refill) else "rebuild", **self._kind(value.kind, where)}
        if isinstance(value, CustomFunctionCall):
            return {"$": "autograd", "user": self.class_of_user(value.kind, where)}
        if isinstance(value, ForwardCall):
            return {"$": "forward"}
        if isinstance(value, PartCode):
            self.required.setdefault(value.module, where)
            names = ("source", "module", "file", "first_line")
            return {"$": "part", **{name: getattr(value, name) for name in names}}
        return None

    def _kind(self, kind: type, where: str) -> dict[str, str]:
        known = class_name(kind)
        return {"user": self.class_of_user(kind, where)} if known is None else {"class": known}

    def _users(self, value: Any, where: str) -> dict[str, Any]:
        """Functions and objects of the user's own."""
        kind = type(value)
        if isinstance(value, FunctionType) and is_users(value.__module__):
            return {"$": "user_function", "user": self.class_of_user(value, where)}
        if isinstance(value, type) and is_users(value.__module__) and is_container(value):
            return {"$": "user_class", "user": self.class_of_user(value, where)}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            items = [self.encode(item, where) for item in value]
            return {"$": "user_named", "user": self.class_of_user(kind, where), "items": items}
        if is_users(kind.__module__) and hasattr(value, "__dict__") and not isinstance(value, (type, dict, list, set)):
            state = self.encode(dict(vars(value)), where)
            return {"$": "user_object", "user": self.class_of_user(kind, where), "state": state}
        raise FxquantError(
            f"{where} is {getattr(value, '__qualname__', None) or f'a {kind.__qualname__}'} of {_module(value)}, "
            "which a file of plain tensors and JSON cannot hold",
            remedy="keep it out of the model, or pickle the model for use on machines you trust",
        )


def _module(value: Any) -> str:
    return str(getattr(value, "__module__", None) or type(value).__module__)


def _is_default(item: dataclasses.Field[Any], value: Any) -> bool:
    if item.default is not dataclasses.MISSING:
        return type(value) is type(item.default) and bool(value == item.default)
    if item.default_factory is not dataclasses.MISSING:
        return type(value) in (dict, tuple, list) and not value
    return False
