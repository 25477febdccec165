"""The way back from JSON to values: every word has one meaning, and none of them runs anything of the file."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
from torch import nn

from fxquant.ir.float_part import ForwardCall
from fxquant.ir.named_call import CustomFunctionCall, NamedCall
from fxquant.ir.rebuild import Rebuild, Refill
from fxquant.ir.records import NamedFunction, TorchOp
from fxquant.storage.names import function_of, may_call_operator
from fxquant.storage.own_classes import class_of, data_class_of
from fxquant.storage.tensor_table import TensorReader
from fxquant.storage.user_code import UserCode

_CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple, "set": set, "frozenset": frozenset, "size": torch.Size,
}  # fmt: skip
_TORCH_CONSTANTS = (torch.dtype, torch.layout, torch.memory_format, torch.qscheme)
_RANDOM = ("random", "numpy.random", "time")


class Decoder:
    """Decodes values; every fault of the file raises ValueError, TypeError, KeyError or IndexError.

    Args:
        tensors: makes the tensors.
        modules: makes the module of a number.
        user_code: looks up what is the user's.
    """

    def __init__(self, tensors: TensorReader, modules: Callable[[int], nn.Module], user_code: UserCode) -> None:
        self.tensors, self.modules, self.user_code = tensors, modules, user_code

    def decode(self, item: Any) -> Any:
        """The value of what ``Encoder.encode`` returned."""
        if item is None or isinstance(item, (bool, int, float, str)):
            return item
        if isinstance(item, list):
            return [self.decode(part) for part in item]
        word, parts = item["$"], {key: part for key, part in item.items() if key != "$"}
        if word in _CONTAINERS:
            return _CONTAINERS[word](self._items(**parts))
        maker = getattr(self, f"_make_{word}", None) if isinstance(word, str) and word.isidentifier() else None
        if maker is None:
            raise ValueError(f"the word {word!r} is unknown")
        return maker(**parts)

    def _items(self, items: list[Any]) -> list[Any]:
        return [self.decode(item) for item in items]

    def _make_float(self, value: str) -> float:
        return float(value)

    def _make_complex(self, value: list[str]) -> complex:
        return complex(float(value[0]), float(value[1]))

    def _make_ellipsis(self) -> Any:
        return ...

    def _make_torch(self, name: str) -> Any:
        found = getattr(torch, name)
        if not isinstance(found, _TORCH_CONSTANTS):
            raise ValueError(f"torch.{name} is no constant")
        return found

    def _make_device(self, name: str) -> torch.device:
        return torch.device(name)

    def _make_slice(self, items: list[Any]) -> slice:
        return slice(*self._items(items))

    def _make_range(self, items: list[Any]) -> range:
        return range(*self._items(items))

    def _make_tensor(self, number: int) -> Any:
        return self.tensors.get(number)

    def _make_module(self, number: int) -> nn.Module:
        return self.modules(number)

    def _make_enum(self, value: Any, **names: str) -> Any:
        return class_of(names["class"], Enum)(value)

    def _make_data(self, fields: dict[str, Any], **names: str) -> Any:
        made = data_class_of(names["class"])(**{key: self.decode(item) for key, item in fields.items()})
        if isinstance(made, TorchOp) and not may_call_operator(made.path):
            raise ValueError(f"torch.ops.{made.path} is not one that files may name")
        if isinstance(made, NamedFunction):
            function_of(f"{made.module}.{made.name}")
        return made

    def _make_dict(self, items: list[Any], **names: str) -> Any:
        kind = class_of(names["class"], dict) if names else dict
        return kind((self.decode(key), self.decode(item)) for key, item in items)

    def _make_named(self, items: list[Any], **names: str) -> Any:
        kind, parts = class_of(names["class"], tuple), self._items(items)
        return kind(*parts) if hasattr(kind, "_make") else kind(parts)

    def _make_function(self, name: str) -> Any:
        return function_of(name)

    def _make_drawn(self, module: str, name: str) -> NamedCall:
        if module not in _RANDOM or not all(part.isidentifier() and part[0] != "_" for part in name.split(".")):
            raise ValueError(f"{module}.{name} is neither a random number nor the time")
        return NamedCall(module, name)

    def _make_rebuild(self, **names: str) -> Rebuild:
        return Rebuild(self._kind(names, "object", object))

    def _make_refill(self, **names: str) -> Refill:
        return Refill(self._kind(names, "mapping", dict))

    def _kind(self, names: dict[str, str], kind: str, base: type) -> Any:
        return self.user_code.find(kind, names["user"]) if "user" in names else class_of(names["class"], base)

    def _make_autograd(self, user: str) -> CustomFunctionCall:
        return CustomFunctionCall(self.user_code.find("autograd", user))

    def _make_forward(self) -> ForwardCall:
        return ForwardCall()

    def _make_part(self, **parts: Any) -> Any:
        return self.user_code.part(**parts)

    def _make_user_function(self, user: str) -> Any:
        return self.user_code.find("function", user)

    def _make_user_class(self, user: str) -> Any:
        return self.user_code.find("container", user)

    def _make_user_named(self, user: str, items: list[Any]) -> Any:
        kind, parts = self.user_code.find("tuple", user), self._items(items)
        return kind(*parts) if hasattr(kind, "_make") else kind(parts)

    def _make_user_object(self, user: str, state: Any) -> Any:
        made = object.__new__(self.user_code.find("object", user))
        vars(made).update(self.decode(state))
        return made
