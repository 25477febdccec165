"""What fxquant knows about a graph node. The only module that touches ``node.meta``.

Before: ``node.meta["..."]`` read and written by string key all over a code base.
After: one dataclass, ``NodeInfo``, with typed fields, and two functions to reach it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, fx

from fxquant.ir.copy_on_write import address_of

_KEY = "fxquant"
_SMALL = 4096  # numbers that are searched in no time, however they lie
_FEW = 4  # tensors of one shape that are searched each by itself
_COMMON = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# Value of NodeInfo.role for nodes of reference models that quantize a value by its own range, for dynamic units.
ARRIVING = "arriving"

# Value of NodeInfo.role for what a model written for the eager style computes outside its quantization stubs.
OUTSIDE = "outside"

# Value of NodeInfo.op for nodes that must run in float, exactly as the user wrote them.
ALIASED = "aliased"


@dataclass(frozen=True)
class TensorMeta:
    """Static facts of one tensor value.

    Attributes:
        shape: sizes, one per dimension.
        dtype: torch dtype.
        device: device as text, ``"cpu"`` or ``"cuda:0"``.
        stride: element strides, one per dimension.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: str
    stride: tuple[int, ...]

    @staticmethod
    def of(tensor: Tensor) -> TensorMeta:
        """Return the facts of ``tensor`` without keeping it alive."""
        return _meta(tensor.shape, tensor.dtype, tensor.device, tensor.stride())

    @property
    def is_contiguous(self) -> bool:
        """Whether the last dimension is densest, then the one before, and so on."""
        expected, strides = 1, []
        for size in reversed(self.shape):
            strides.append(expected)
            expected *= max(size, 1)
        pairs = zip(self.shape, self.stride, reversed(strides), strict=True)
        return all(stride == wanted for size, stride, wanted in pairs if size > 1)

    @property
    def is_float(self) -> bool:
        """Whether the dtype is a floating-point one."""
        return self.dtype.is_floating_point


@lru_cache(maxsize=4096)  # layers repeat
def _meta(shape: torch.Size, dtype: torch.dtype, device: torch.device, stride: tuple[int, ...]) -> TensorMeta:
    return TensorMeta(tuple(shape), dtype, str(device), tuple(stride))


@dataclass(frozen=True)
class Origin:
    """Where in the user's program a captured node came from.

    Attributes:
        spelling: how the user wrote the operation: ``torch.nn.functional.relu``, ``.view``, ``operator.add``.
        module_path: dotted path of the innermost module whose forward ran, ``""`` for the root.
        module_type: qualified class name of that module.
        call: which of all calls of modules that was, counted from 1 in the order in which they began; 0 for the root's.
        file: source file, line: its line number, code: the text of that line.
        at: positions in the code of the user's functions that run inside the module, the innermost first; only in
            graphs that are trained, to tell calls on one line apart.
    """

    spelling: str = ""
    module_path: str = ""
    module_type: str = ""
    file: str = ""
    line: int = 0
    code: str = ""
    call: int = 0
    at: tuple[int, ...] = ()

    @property
    def source(self) -> str:
        """``file:line``, empty when unknown."""
        return f"{self.file}:{self.line}" if self.file else ""

    @property
    def from_torch_module(self) -> bool:
        """Whether the operation was made by a module of torch.nn rather than by the user's own code."""
        return self.module_type.startswith("torch.nn.")


@dataclass(frozen=True)
class NodeInfo:
    """Everything fxquant attaches to a node.

    Attributes:
        op: name of the catalogue row, ``""`` when the catalogue does not know the operation.
        value: ``TensorMeta``, a Python scalar, or a tuple/list/dict of those.
        origin: where the node came from.
        origins: names of the captured nodes this node stands for.
        unit: name of the planned unit the node belongs to, ``""`` for none.
        holds: name of the captured value that this node holds in integer form, ``""`` for none.
        made_by: the pass that made the node.
        mutates: names of the argument nodes whose tensors the operation changed in place.
        storage: address of the value's storage while it was alive, 0 when it is no tensor.
        largest: largest magnitude of a floating value on the example inputs; NaN when it holds one, 0 when unknown.
        role: ``arriving`` for what quantizes a value when it arrives; ``scores`` for what is computed from an
            attention's product up to its softmax, ``mask`` for values that are only added to scores or mask them,
            ``outside`` for values beyond quantization stubs: these stay float. ``""`` for all others.
        part_of: (node name, catalogue name) of the captured operation that a pass divided into this node and others:
            configurations speak of that operation. Empty for all others.
    """

    op: str = ""
    value: Any = None
    origin: Origin = Origin()
    origins: tuple[str, ...] = ()
    unit: str = ""
    holds: str = ""
    made_by: str = "capture"
    mutates: tuple[str, ...] = ()
    storage: int = 0
    largest: float = 0.0
    role: str = ""
    part_of: tuple[str, ...] = ()

    @property
    def tensor(self) -> TensorMeta | None:
        """The value's meta when the value is a single tensor."""
        return self.value if isinstance(self.value, TensorMeta) else None

    @property
    def is_float_tensor(self) -> bool:
        """Whether the value is one floating-point tensor."""
        return self.tensor is not None and self.tensor.is_float


_NOTHING = NodeInfo()


def info(node: fx.Node) -> NodeInfo:
    """Return what is known of ``node``; a bare ``NodeInfo`` when nothing is."""
    found: NodeInfo = node.meta.get(_KEY, _NOTHING)
    return found


def set_info(node: fx.Node, new: NodeInfo) -> None:
    """Attach ``new`` to ``node``."""
    node.meta[_KEY] = new


def update_info(node: fx.Node, **changes: Any) -> None:
    """Replace some fields of the info of ``node``."""
    set_info(node, changed_info(info(node), **changes))


_Info = TypeVar("_Info", NodeInfo, Origin)


def changed_info(known: _Info, **changes: Any) -> _Info:
    """``dataclasses.replace`` in a fifth of its time, which every node of a graph takes several times.

    Raises:
        TypeError: for what is no field.
    """
    kind, before = type(known), vars(known)
    values = {**before, **changes}
    if len(values) != len(before):
        raise TypeError(f"{kind.__name__} has no {', '.join(sorted(set(changes) - set(before)))}")
    made = object.__new__(kind)
    object.__setattr__(made, "__dict__", values)
    return made


class InfoAgain:
    """Attaches what is known of one node to others that do the same in other modules.

    Args:
        known: of the one node.
    """

    def __init__(self, known: NodeInfo) -> None:
        self._known, self._origin = vars(known), vars(known.origin)

    def attach(
        self,
        node: fx.Node,
        spelling: str,
        module_path: str,
        call: int,
        mutates: tuple[str, ...],
        storage: int,
        largest: float,
    ) -> None:
        """Attach it to a node, with what is its own: see ``Origin`` and ``NodeInfo``."""
        origin, made = object.__new__(Origin), object.__new__(NodeInfo)
        values = vars(origin)  # filled directly, in a fifth of the time that the constructors of frozen classes take
        values.update(self._origin)
        values["spelling"], values["module_path"], values["call"] = spelling, module_path, call
        values = vars(made)
        values.update(self._known)
        values["origin"], values["origins"], values["mutates"] = origin, (node.name,), mutates
        values["storage"], values["largest"] = storage, largest
        node.meta[_KEY] = made


def describe_value(value: Any) -> Any:
    """Map a real value to what may outlive it: dense tensors to ``TensorMeta``, containers elementwise."""
    if isinstance(value, Tensor):
        return TensorMeta.of(value) if value.layout is torch.strided else f"{value.layout} {tuple(value.shape)}"
    if isinstance(value, torch.Size):
        return tuple(value)
    if isinstance(value, (tuple, list)):
        return type_of_sequence(value)(describe_value(item) for item in value)
    if isinstance(value, dict):
        return {key: describe_value(item) for key, item in value.items()}
    return value if isinstance(value, (int, float, bool, str, torch.dtype, type(None))) else repr(value)


def is_described_by(value: Any, described: Any) -> bool:
    """Whether ``describe_value`` gives that; for tensors, which are most of the values, without describing them."""
    if type(value) is not Tensor or type(described) is not TensorMeta or value.layout is not torch.strided:
        return bool(describe_value(value) == described)
    same = value.shape == described.shape and value.dtype is described.dtype and value.stride() == described.stride
    return same and described.device == ("cpu" if value.is_cpu else str(value.device))


def largest_magnitude(value: Any) -> float:
    """The largest magnitude in a floating tensor, NaN when it holds one, 0 for anything else."""
    if not isinstance(value, Tensor) or not _has_magnitudes(value):
        return 0.0
    low, high = _bounds(value)
    return _magnitude(low.item(), high.item())


def largest_magnitudes(values: Sequence[Any]) -> list[float]:
    """``largest_magnitude`` of each; small tensors of one shape in one step, which takes longer than their search."""
    found, bounds = [0.0] * len(values), list[tuple[int, Tensor]]()
    alike: dict[tuple[torch.Size, torch.dtype, torch.device], list[int]] = {}
    for index, value in enumerate(values):
        if isinstance(value, Tensor) and _has_magnitudes(value):
            if value.numel() > _SMALL or value.dtype not in _COMMON:
                bounds += [(index, bound) for bound in _bounds(value)]
            else:
                alike.setdefault((value.shape, value.dtype, value.device), []).append(index)
    for indices in alike.values():
        if len(indices) < _FEW:
            bounds += [(index, bound) for index in indices for bound in _bounds(values[index])]
        else:
            every = torch.stack([values[index].detach().flatten() for index in indices]).abs().amax(1)
            for index, largest in zip(indices, every.tolist(), strict=True):
                found[index] = largest
    if bounds:
        is_on_one = len({bound.device for _, bound in bounds}) == 1
        read = torch.stack([bound if is_on_one else bound.cpu() for _, bound in bounds]).tolist()
        for (index, _), low, high in zip(bounds[::2], read[::2], read[1::2], strict=True):
            found[index] = _magnitude(low, high)
    return found


def _bounds(value: Tensor) -> tuple[Tensor, Tensor]:
    value = value.detach() if value.requires_grad else value
    if value.numel() > _SMALL and not value.is_contiguous():  # in the order of memory they are searched much faster
        value = value.permute(sorted(range(value.dim()), key=value.stride().__getitem__, reverse=True))
    return torch.aminmax(value)


def _magnitude(low: float, high: float) -> float:
    return max(abs(low), abs(high)) if low == low else math.nan


def _has_magnitudes(value: Tensor) -> bool:
    strided = value.layout is torch.strided and not value.is_meta
    return strided and value.is_floating_point() and value.numel() > 0


def storage_of(value: Any) -> int:
    """Address of a dense tensor's storage, or of the memory that an array looks into; 0 for what has none."""
    if isinstance(value, np.ndarray):
        while isinstance(value.base, (np.ndarray, Tensor)):
            value = value.base
            if isinstance(value, Tensor):
                return storage_of(value)
        return int(value.__array_interface__["data"][0])
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_meta:
        return 0
    return address_of(value)


def writers_in(graph: fx.Graph) -> list[fx.Node]:
    """The nodes of ``graph`` that change a value in place, in order."""
    return [node for node in graph.nodes if info(node).mutates]


def by_storage(graph: fx.Graph) -> dict[int, list[fx.Node]]:
    """The nodes of ``graph`` with values in memory, by address, in order; memory may have been used again."""
    found: dict[int, list[fx.Node]] = {}
    for node in graph.nodes:
        if info(node).storage:
            found.setdefault(info(node).storage, []).append(node)
    return found


def type_of_sequence(value: tuple[Any, ...] | list[Any]) -> Callable[[Any], Any]:
    """``list`` for lists, ``tuple`` for tuples and everything derived from them."""
    return list if isinstance(value, list) else tuple


def qualified_name(target: object) -> str:
    """A stable readable name of a call target: ``torch.conv2d``, ``operator.add``, ``.view``."""
    if isinstance(target, str):
        return f".{target}"
    module = getattr(target, "__module__", None) or "torch"
    if module in ("_operator", "builtins"):
        module = "operator" if module == "_operator" else "builtins"
    if module.startswith("torch._C"):
        module = "torch"
    name = str(getattr(target, "__qualname__", getattr(target, "__name__", repr(target))))
    return f"{module}.{name.removeprefix('_VariableFunctionsClass.')}"


def qualified_type(kind: type) -> str:
    """``module.QualName`` of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"
