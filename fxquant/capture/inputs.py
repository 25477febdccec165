"""Example inputs: binding them to ``forward``, and placing proxies inside their containers."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.capture.structures import has_parts, holds_tensor, leaves, remake
from fxquant.errors import CaptureError

_DEPTH = 8
LITERALS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


@dataclasses.dataclass(frozen=True)
class BoundInputs:
    """Example inputs matched with the parameters of ``forward``.

    Attributes:
        entries: (parameter name, how it is passed: ``positional`` or ``keyword``, value), in signature order.
        want_gradients: whether copies of floating tensors do.
    """

    entries: tuple[tuple[str, str, Any], ...]
    want_gradients: bool = False

    @property
    def share_memory(self) -> bool:
        """Whether two of the tensors are one, or lie in the same memory: what is written into one is in the other."""
        tensors: list[Tensor] = []
        for _, _, value in self.entries:
            map_leaves(value, lambda leaf, path: tensors.append(leaf) if isinstance(leaf, Tensor) else None)
        dense = [item for item in tensors if item.layout is torch.strided and not item.is_meta]
        return len({item.untyped_storage().data_ptr() for item in dense if item.numel()}) < len(
            [item for item in dense if item.numel()]
        )

    def changed(self, change: Callable[[Tensor], Tensor]) -> BoundInputs:
        """The same with every tensor a changed copy of what it is."""
        values = copy_tensors([value for *_, value in self.entries], change)
        return BoundInputs(
            tuple((name, how, value) for (name, how, _), value in zip(self.entries, values, strict=True))
        )

    def copied(self) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments, their tensors copied; what shares memory does so in the copy."""
        values = [value for *_, value in self.entries]
        values = copy.deepcopy(values) if self.share_memory else copy_tensors(values)
        if self.want_gradients:
            map_leaves(values, lambda leaf, path: _let_want_gradients(leaf))
        given = [(name, how, value) for (name, how, _), value in zip(self.entries, values, strict=True)]
        args = [value for _, how, value in given if how == "positional"]
        return args, {name: value for name, how, value in given if how == "keyword"}


def _let_want_gradients(leaf: Any) -> None:
    if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.is_leaf:
        leaf.requires_grad_()


def bind_inputs(model: nn.Module, example_inputs: Any) -> BoundInputs:
    """Match example inputs with ``model.forward``.

    Args:
        model: the module to be called.
        example_inputs: a tuple or list (positional), a dict (keywords), or one tensor.

    Raises:
        CaptureError: the inputs do not fit the signature.
    """
    args, kwargs = split_inputs(example_inputs)
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise CaptureError(
            f"example_inputs do not fit {type(model).__name__}.forward: {error}",
            remedy="pass a tuple of positional inputs, or a dict of keyword inputs",
        ) from None
    entries: list[tuple[str, str, Any]] = []
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            entries += [(f"{name}_{i}", "positional", item) for i, item in enumerate(value)]
        elif kind is inspect.Parameter.VAR_KEYWORD:
            entries += [(key, "keyword", item) for key, item in value.items()]
        elif kind is inspect.Parameter.KEYWORD_ONLY or name in kwargs:
            entries.append((name, "keyword", value))
        else:
            entries.append((name, "positional", value))
    return BoundInputs(tuple(entries))


def split_inputs(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn example inputs into positional and keyword arguments."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def map_leaves(
    structure: Any,
    at_leaf: Callable[[Any, tuple[Any, ...]], Any],
    path: tuple[Any, ...] = (),
    at_container: Callable[[Any, tuple[Any, ...]], Any] = lambda container, path: None,
) -> Any:
    """Rebuild nested dicts, lists, tuples, dataclasses and objects that hold tensors with every leaf mapped.

    Args:
        structure: the containers.
        at_leaf: called with the leaf and its path: dict keys, list indices, and ``("attr", name)`` for
            fields of dataclasses and attributes of objects.
        path: of ``structure``.
        at_container: called with each list, tuple and dict before what is in it, and with its path; what it returns
            takes the place of the container, None leaves it.
    """

    def mapped(part: Any, step: Any) -> Any:
        return map_leaves(part, at_leaf, (*path, step), at_container)

    if isinstance(structure, torch.Size):
        return at_leaf(structure, path)
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(mapped(v, i) for i, v in enumerate(structure)))
    if isinstance(structure, (tuple, list)):
        found = at_container(structure, path)
        return type(structure)(mapped(v, i) for i, v in enumerate(structure)) if found is None else found
    if isinstance(structure, dict) and not dataclasses.is_dataclass(structure):
        found = at_container(structure, path)
        if found is not None:
            return found
        items = {k: mapped(v, k) for k, v in structure.items()}
        return items if type(structure) is dict else type(structure)(items)
    if dataclasses.is_dataclass(structure) and not isinstance(structure, type):
        names = [f.name for f in dataclasses.fields(structure) if f.init]
        fields = {n: mapped(getattr(structure, n), ("attr", n)) for n in names}
        return dataclasses.replace(structure, **fields)
    if len(path) < _DEPTH and has_parts(structure) and holds_tensor(structure):
        parts = {name: mapped(value, ("attr", name)) for name, value in vars(structure).items()}
        return remake(structure, parts)
    return at_leaf(structure, path)


def copy_tensors(structure: Any, change: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Any:
    """Clone every tensor of nested containers, so that in-place models leave the user's inputs alone.

    What is one tensor in several places stays one.
    """
    made: dict[int, Any] = {}

    def copied(leaf: Any, path: tuple[Any, ...]) -> Any:
        if isinstance(leaf, LITERALS):
            return leaf
        if id(leaf) not in made:
            made[id(leaf)] = change(leaf.detach().clone()) if isinstance(leaf, Tensor) else _own(leaf)
        return made[id(leaf)]

    return map_leaves(structure, copied)


def _own(thing: Any) -> Any:
    """A copy of an object that a model may write into; functions, classes, and what holds modules, as they are."""
    has_slots = any("__slots__" in vars(kind) for kind in type(thing).__mro__)
    if isinstance(thing, (type, nn.Module)) or not (has_slots or has_parts(thing) or isinstance(thing, (set, deque))):
        return thing
    if any(isinstance(leaf, nn.Module) for leaf in leaves(thing)):
        return thing
    try:
        return copy.deepcopy(thing)
    except Exception:  # a class may refuse in whatever way
        return thing
