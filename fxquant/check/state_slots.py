"""Everything that a forward can change and that a graph does not: attributes, buffers, hooks, globals, random states.

Each is a slot with a fingerprint that is cheap to take and that changes when the content does.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.capture.fingerprint import fingerprint
from fxquant.capture.outer_state import is_random
from fxquant.capture.variables import MISSING, variables_of
from fxquant.check.finding import FindingKind
from fxquant.ir.walk_modules import Inventory

_OF_MODULES = frozenset(("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"))

SlotKey = tuple[str, str, FindingKind]
_SHARED = ("random", "numpy.random")


@dataclass(frozen=True)
class Slot:
    """One thing that may change.

    Attributes:
        kind: the finding that a change is.
        owner: path of the module it belongs to, "" for the root and for what belongs to no module.
        name: attribute, buffer or variable; "" for the set of names that a module has.
        get: its present value.
    """

    kind: FindingKind
    owner: str
    name: str
    get: Callable[[], Any]

    @property
    def key(self) -> SlotKey:
        """What is the same for this slot of a model and of its copy."""
        return self.owner, self.name, self.kind

    def read(self, identity: bool = True) -> Any:
        """The fingerprint of its present value; with ``identity``, equal objects that were replaced differ."""
        value = self.get()
        return value if isinstance(value, frozenset) else fingerprint(value, identity=identity)


def is_shared(key: SlotKey) -> bool:
    """Whether a slot is a random state of the process, which every call is given anew."""
    return key[2] is FindingKind.PYTHON_RANDOM and not key[0] and key[1] in _SHARED


def slots_of(model: nn.Module) -> list[Slot]:
    """The slots of a model, of the files its classes are in, and of Python's and numpy's random states."""
    slots: list[Slot] = []
    for path, module in model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):  # its Python attributes are a facade
            slots += _slots_of_module(path, module)
    variables = variables_of(Inventory(model).classes)
    slots += [Slot(_kind_of_variable(item.get()), "", item.shown, item.get) for item in variables]
    slots.append(Slot(FindingKind.PYTHON_RANDOM, "", "random", random.getstate))
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        slots.append(Slot(FindingKind.PYTHON_RANDOM, "", "numpy.random", numpy_random.get_state))
    return slots


def _slots_of_module(path: str, module: nn.Module) -> Iterator[Slot]:
    def attribute(key: str) -> Callable[[], Any]:
        return lambda: vars(module).get(key, MISSING)

    def tensor(key: str) -> Callable[[], Any]:
        return lambda: _tensors_of(module).get(key, MISSING)

    yield Slot(FindingKind.ATTRIBUTE_UPDATE, path, "__class__", lambda: id(type(module)))
    for key, value in vars(module).items():
        if key not in _OF_MODULES:
            yield Slot(_kind_of_attribute(value), path, key, attribute(key))
    statistics = module._buffers if type(module).__module__.startswith("torch.") and module.training else {}
    for key, value in _tensors_of(module).items():
        if (value is not None or key in module._buffers) and key not in statistics:
            yield Slot(FindingKind.BUFFER_UPDATE, path, key, tensor(key))
    yield Slot(
        FindingKind.ATTRIBUTE_UPDATE,
        path,
        "",
        lambda: frozenset((*vars(module), *module._modules, *_tensors_of(module))),
    )


def _kind_of_variable(value: Any) -> FindingKind:
    return FindingKind.PYTHON_RANDOM if is_random(value) else FindingKind.GLOBAL_UPDATE


def _kind_of_attribute(value: Any) -> FindingKind:
    if isinstance(value, random.Random) or type(value).__module__.startswith("numpy.random"):
        return FindingKind.PYTHON_RANDOM
    if isinstance(value, torch.Generator):
        return FindingKind.TORCH_RANDOM
    plain = (bool, int, float, complex, str, bytes, type(None), Enum, Tensor, torch.dtype, torch.device)
    return FindingKind.ATTRIBUTE_UPDATE if isinstance(value, plain) else FindingKind.CONTAINER_UPDATE


def _tensors_of(module: nn.Module) -> dict[str, Any]:
    return {**module._buffers, **module._parameters}
