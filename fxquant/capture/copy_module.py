"""The copy of the user's model that is traced."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.capture.shared_parameters import SharedParameters
from fxquant.capture.structures import leaves
from fxquant.errors import CaptureError
from fxquant.ir.meta import storage_of
from fxquant.ir.own_functions import LITERALS, OwnFunctions
from fxquant.ir.walk_modules import Inventory

_WAYS_TO_COPY = frozenset(
    ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__new__", "__getnewargs__",
     "__getnewargs_ex__", "__getattr__", "__getattribute__")
)  # fmt: skip

_ENTRIES = frozenset(("_parameters", "_buffers", "_modules"))
_CONTAINERS = (list, tuple, dict, deque)
_MAY_BE_EMPTY = frozenset((OrderedDict, set))
_sharing: ContextVar[bool] = ContextVar("sharing", default=False)


@contextmanager
def parameters_shared() -> Iterator[None]:
    """Inside, copies have the memory of their parameters in common with the original; nothing may write into it."""
    token = _sharing.set(True)
    try:
        yield
    finally:
        _sharing.reset(token)


def plain_tensors(held: Inventory) -> frozenset[str]:
    """Paths of tensors that modules keep as plain attributes, neither parameters nor buffers.

    Not those that a class has an attribute of the same name for: that would be found in the place of a buffer.
    """
    found = set[str]()
    for path, tensor in held.plain_tensors:
        owner, _, name = path.rpartition(".")
        module = held.model.get_submodule(owner)
        fits = not isinstance(module, torch.jit.ScriptModule) and not hasattr(type(module), name)
        if fits and not isinstance(tensor, nn.Parameter):
            found.add(path)
    return frozenset(found)


def prepare_copy(held: Inventory, plain: Iterable[str], parameters: SharedParameters) -> nn.Module:
    """A copy of a model whose plain tensors, by path, are buffers, so that reading them is seen."""
    root = copy_module(held.model, parameters, held)
    for path in plain:
        owner, _, name = path.rpartition(".")
        module = root.get_submodule(owner)
        value = vars(module).pop(name)
        module.register_buffer(name, value, persistent=False)
    return root


def copy_module(
    model: nn.Module, parameters: SharedParameters | None = None, held: Inventory | None = None
) -> nn.Module:
    """Deep-copy ``model``; tensors computed by autograd (old-style weight norm) are copied by value.

    Args:
        model: any module.
        parameters: those of the model that copies have in common.
        held: what the model holds, where it is known.

    Raises:
        CaptureError: the model cannot be copied.
    """
    memo: dict[int, Any] = {}
    if _sharing.get():
        plain = [item for item in model.parameters() if type(item) is nn.Parameter]
        memo = {id(item): nn.Parameter(item.detach(), item.requires_grad) for item in plain}
    elif parameters is not None:
        memo.update(parameters.for_copy())
    held = held or Inventory(model)
    modules = [module for _, module in held.modules]
    _copy_what_shares_memory(held, memo)
    for _, _, attributes in held.attributes:
        for name, value in attributes:
            if name == "_modules":
                continue
            if isinstance(value, (torch.jit.ScriptFunction, random.SystemRandom)):
                memo[id(value)] = value  # keeps nothing, and cannot be copied
            elif isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
            elif isinstance(value, _CONTAINERS) and value:
                computed = (item for item in leaves(value) if isinstance(item, Tensor) and not item.is_leaf)
                memo.update({id(item): item.detach().clone() for item in computed})
    functions = OwnFunctions(modules, held.attributes)
    memo.update(functions.copies)
    try:
        copied = _copied(model, modules, memo)
        functions.bind(memo)
        _hook_parameters(model, copied, memo)
        return copied
    except Exception as error:  # whatever the user's ways to copy raise
        raise CaptureError(
            f"{type(model).__name__} cannot be copied: {_attribute_to_blame(model, memo)}{error}",
            remedy="fxquant works on a copy of your model; remove attributes that cannot be deep-copied",
        ) from error


def _copy_what_shares_memory(inside: Inventory, memo: dict[int, Any]) -> None:
    """Copies of parameters that lie in the memory of other tensors: ``deepcopy`` gives each memory of its own."""
    tensors = {id(item): item for _, item in (*inside.tensors, *inside.plain_tensors)}
    held: dict[int, list[Tensor]] = {}
    for item in tensors.values():
        if storage_of(item):
            held.setdefault(storage_of(item), []).append(item)
    for item in (item for items in held.values() if len(items) > 1 for item in items):
        if type(item) is nn.Parameter and _is_dense(item.detach()):
            memo[id(item)] = nn.Parameter(_copy_of_dense(item.detach(), memo), item.requires_grad)


def _copied(model: nn.Module, modules: list[nn.Module], memo: dict[int, Any]) -> nn.Module:
    """``copy.deepcopy(model, memo)``, without asking for each of its modules how to copy it, which takes long."""
    kinds = {kind for kind in set(map(type, modules)) if _copied_by_attributes(kind)}
    plain = [module for module in modules if type(module) in kinds and id(module) not in memo]
    for module in plain:
        memo[id(module)] = type(module).__new__(type(module))
    for module in reversed(plain):  # what copies itself may ask the modules that it holds
        made, state = memo[id(module)], vars(module).copy()
        for name, value in state.items():
            kind, key = type(value), id(value)
            if kind in LITERALS:
                continue
            if kind in _MAY_BE_EMPTY and not value and key not in memo:  # a module has a dozen
                state[name] = memo[key] = kind()
            elif name in _ENTRIES and kind is dict and key not in memo:
                state[name] = memo[key] = {entry: _copy_of(item, memo) for entry, item in value.items()}
            else:
                state[name] = _copy_of(value, memo)
        if type(made).__setstate__ is nn.Module.__setstate__:
            vars(made).update(state)
        else:
            made.__setstate__(state)
    copied: nn.Module = copy.deepcopy(model, memo)
    return copied


def _copy_of(value: Any, memo: dict[int, Any]) -> Any:
    """``copy.deepcopy(value, memo)``, which takes long for what needs no copy or has one."""
    kind = type(value)
    if kind in LITERALS or (kind is tuple and all(type(item) in LITERALS for item in value)):
        return value
    known = memo.get(id(value))
    if known is None and kind is Tensor and _is_dense(value):
        memo[id(value)] = known = _copy_of_dense(value, memo)
    return copy.deepcopy(value, memo) if known is None else known


def _is_dense(value: Tensor) -> bool:
    has_more = value.requires_grad or value.is_quantized or value.is_complex() or value.is_inference() or value.is_neg()
    return value.layout is torch.strided and not has_more and value.device.type in ("cpu", "cuda") and not vars(value)


def _copy_of_dense(value: Tensor, memo: dict[int, Any]) -> Tensor:
    """A copy of a buffer in memory that copies of other tensors share if the originals do."""
    made = torch.empty(0, dtype=value.dtype, device=value.device)
    memory = copy.deepcopy(value.untyped_storage(), memo)
    return made.set_(memory, value.storage_offset(), value.size(), value.stride())


def _copied_by_attributes(kind: type[nn.Module]) -> bool:
    """Whether ``copy`` makes a copy of such modules from their attributes alone."""
    bases = kind.__mro__[: kind.__mro__.index(nn.Module)]
    own = {name for base in bases for name in vars(base) if not (name == "__setstate__" and _is_torchs(base))}
    return not own & _WAYS_TO_COPY and not hasattr(kind, "__slots__")


def _is_torchs(kind: type) -> bool:
    """Whether ``__setstate__`` of a class takes the attributes and adds what older files lack."""
    return kind.__module__.startswith("torch.nn.modules.")


def _hook_parameters(model: nn.Module, copied: nn.Module, memo: dict[int, Any]) -> None:
    """Copies of parameters have no attributes of the user's and no hooks on their gradients: give them those."""
    named = [(name, item) for name, item in model.named_parameters() if vars(item) or any(map(len, _hooks_of(item)))]
    found = dict(copied.named_parameters()) if named else {}
    for name, parameter in named:
        if name in found and type(parameter) is nn.Parameter:
            vars(found[name]).update(copy.deepcopy(vars(parameter), memo))
        for hook in (parameter._backward_hooks or {}).values():
            if name in found and found[name].requires_grad:
                found[name].register_hook(hook)  # type: ignore[no-untyped-call]
        for hook in _hooks_of(parameter)[1].values():
            if name in found and found[name].requires_grad:
                found[name].register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]


def _hooks_of(parameter: Tensor) -> tuple[dict[int, Any], dict[int, Any]]:
    """Hooks on the gradient of a parameter, and those that run when it is there."""
    return parameter._backward_hooks or {}, getattr(parameter, "_post_accumulate_grad_hooks", None) or {}


def _attribute_to_blame(model: nn.Module, memo: dict[int, Any]) -> str:
    """The first attribute of a module that cannot be copied by itself, and a colon."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name != "_modules":
                try:
                    copy.deepcopy(value, dict(memo))
                except Exception:  # whatever it says
                    return f"{path}.{name}".lstrip(".") + f", a {type(value).__name__}: "
    return ""
