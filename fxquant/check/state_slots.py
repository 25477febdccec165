"""Everything that a forward can change and that a graph does not: attributes, buffers, hooks, globals, random states.

Each is a slot with a fingerprint that is cheap to take and that changes when the content does.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.check.finding import FindingKind
from fxquant.check.variables import MISSING, variables_of

_DEPTH = 4
_LARGEST_CONTAINER = 2000
_MOST_PARTS = 20_000
_LARGEST_TENSOR = 2**18  # larger ones are sampled; writes are told by their version anyway
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
    slots += [Slot(FindingKind.GLOBAL_UPDATE, "", item.shown, item.get) for item in variables_of(model)]
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

    for key, value in vars(module).items():
        if key not in _OF_MODULES:
            yield Slot(_kind_of_attribute(value), path, key, attribute(key))
    statistics = module._buffers if type(module).__module__.startswith("torch.") and module.training else {}
    for key, value in _tensors_of(module).items():
        if value is not None and key not in statistics:
            yield Slot(FindingKind.BUFFER_UPDATE, path, key, tensor(key))
    yield Slot(
        FindingKind.ATTRIBUTE_UPDATE,
        path,
        "",
        lambda: frozenset((*vars(module), *module._modules, *_tensors_of(module))),
    )


def _kind_of_attribute(value: Any) -> FindingKind:
    if isinstance(value, random.Random) or type(value).__module__.startswith("numpy.random"):
        return FindingKind.PYTHON_RANDOM
    if isinstance(value, torch.Generator):
        return FindingKind.TORCH_RANDOM
    plain = (bool, int, float, complex, str, bytes, type(None), Tensor, torch.dtype, torch.device)
    return FindingKind.ATTRIBUTE_UPDATE if isinstance(value, plain) else FindingKind.CONTAINER_UPDATE


def _tensors_of(module: nn.Module) -> dict[str, Any]:
    return {**module._buffers, **module._parameters}


# -- fingerprints -----------------------------------------------------------------------------------


def fingerprint(value: Any, identity: bool = True) -> Any:
    """Something that is equal for equal contents and differs for others, as far as it can be told cheaply.

    Args:
        value: anything.
        identity: tell equal objects apart, and tensors that were written without a change of their values.
    """
    return _Reader(identity).read(value, _DEPTH)


class _Reader:
    """Reads contents down to a depth, and no more than so many parts in all."""

    def __init__(self, identity: bool) -> None:
        self.identity = identity
        self.left = _MOST_PARTS

    def read(self, value: Any, depth: int) -> Any:
        """The fingerprint of a value."""
        self.left -= 1
        if isinstance(value, (bool, int, float, complex, str, bytes, type(None))):
            return type(value).__name__, value if value == value else "nan"
        if isinstance(value, Tensor):
            return _fingerprint_of_tensor(value, self.identity)
        copied = isinstance(value, (list, tuple, set, frozenset)) or type(value).__module__ == "numpy"
        name = id(value) if self.identity and not copied else type(value).__qualname__
        parts = _parts(value) if depth > 0 and self.left > 0 else None
        if parts is None:
            return name
        return name, len(parts), [self.read(part, depth - 1) for part in parts[-_LARGEST_CONTAINER:]]


def _parts(value: Any) -> list[Any] | None:
    """What a container or an object is made of, None when it is not to be looked into."""
    if isinstance(value, (type, ModuleType, torch.dtype, torch.device)):
        return None
    if isinstance(value, torch.Generator):
        return [value.get_state()]
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if type(value).__module__ == "numpy":
        return [value.tobytes() if hasattr(value, "tobytes") else repr(value)]
    if isinstance(value, FunctionType):
        return [_content(cell) for cell in value.__closure__ or ()]
    attributes = getattr(value, "__dict__", None)
    if isinstance(value, nn.Module):  # one that is kept in a plain container
        own = {} if type(value).__module__.startswith("torch.") else value.__dict__
        attributes = {key: item for key, item in own.items() if key not in _OF_MODULES}
    if attributes is None:
        return [repr(value)] if type(value).__module__ in ("collections", "itertools") else None
    return [part for item in attributes.items() for part in item]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def _fingerprint_of_tensor(tensor: Tensor, identity: bool) -> Any:
    seen: tuple[Any, ...] = (tuple(tensor.shape), tensor.dtype)
    if identity:
        seen += (0 if tensor.is_inference() else tensor._version, id(tensor))
    if tensor.is_meta or tensor.layout != torch.strided or tensor.numel() == 0 or tensor.is_complex():
        return seen
    with torch.no_grad():
        step = 1 + tensor.numel() // _LARGEST_TENSOR
        numbers = (
            tensor.detach().flatten()[::step].double() if step == 1 or tensor.is_contiguous() else tensor[:1].double()
        )
        total, size = numbers.sum().item(), numbers.abs().sum().item()
    return (*seen, total if total == total else "nan", size if size == size else "nan")
