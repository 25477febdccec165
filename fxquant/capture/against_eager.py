"""Comparing what a trace computed with what eager computes on the same inputs, from the same random state.

Whatever a trace does not see, such as a copy of a tensor that it takes for the tensor itself, or a seed that is set in
forward, shows in a result, at the latest in that of the whole model. The module in which eager and the trace part is
kept whole then.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.capture.copy_module import copy_module
from fxquant.capture.inputs import LITERALS, BoundInputs
from fxquant.capture.keep_state import randomness_kept
from fxquant.capture.structures import leaves
from fxquant.ir.walk_modules import Inventory

_RELATIVE = 1e-3  # of the norm of a result; a trace computes what eager does, but for the insides of attention


@dataclass(frozen=True)
class Mark:
    """What one call of a module gave.

    Attributes:
        path: of the module. call: which of its calls, from 0.
        value: what tells results apart, for each of them.
    """

    path: str
    call: int
    value: tuple[Any, ...]


class Marks:
    """The results of modules, in the order in which their calls end."""

    def __init__(self) -> None:
        self.found: list[Mark] = []
        self._calls: Counter[str] = Counter()

    def add(self, path: str, result: Any) -> None:
        """Note the result of a call."""
        self.found.append(Mark(path, self._calls[path], tuple(_mark(leaf) for leaf in leaves(result))))
        self._calls[path] += 1


class Eager:
    """A copy of a model, called as in a trace: where gradients are on, though none are wanted.

    Args:
        model: not changed.
        marks: gets the results of its modules.
        gradients: whether its parameters have them, and the mode is the caller's.
        copied: a copy of it that nothing has changed, None to make one.
    """

    def __init__(
        self,
        model: nn.Module,
        marks: Marks | None = None,
        gradients: bool = False,
        copied: nn.Module | None = None,
    ) -> None:
        self._copy, self._gradients = copy_module(model) if copied is None else copied, gradients
        if marks is not None:
            for path, module in self._copy.named_modules():
                module.register_forward_hook(_noting(marks, path))

    def call(self, inputs: BoundInputs) -> Any:
        """What it computes; the inputs and the random state do not change.

        Raises:
            Exception: whatever the model raises.
        """
        args, kwargs = inputs.copied()
        mode = torch.set_grad_enabled(not self._gradients or torch.is_grad_enabled())
        wanted = nullcontext() if self._gradients else without_gradients_of(self._copy)
        with mode, wanted, randomness_kept(), _without_fused_attention(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._copy(*args, **kwargs)


@contextmanager
def without_gradients_of(model: nn.Module) -> Iterator[None]:
    """Inside, the parameters of a model want no gradients."""
    # Those of TorchScript are no leaves once they are copied.
    trained = [item for item in Inventory(model).parameters if item.requires_grad and item.is_leaf]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def same_results(expected: Any, found: Any) -> bool:
    """Whether two results are equal but for rounding; of what is neither tensor nor literal, the number is compared."""
    first, second = leaves(expected), leaves(found)
    return len(first) == len(second) and all(map(_same, first, second))


def first_difference(expected: Marks, found: Marks) -> str:
    """Path of the module whose call is the first to end with another result than in eager; "" when none is."""
    known = {(mark.path, mark.call): mark.value for mark in found.found}
    for mark in expected.found:
        value = known.get((mark.path, mark.call))
        if value is not None and not (len(value) == len(mark.value) and all(map(_alike, mark.value, value))):
            return mark.path
    return ""


def _noting(marks: Marks, path: str) -> Callable[..., None]:
    def note(module: nn.Module, args: Any, result: Any) -> None:
        marks.add(path, result)

    return note


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Let torch.nn's transformers run module by module, as they do in a trace."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _same(expected: Any, found: Any) -> bool:
    if isinstance(expected, Tensor) and isinstance(found, Tensor):
        return _same_tensors(expected.detach(), found.detach())
    if isinstance(expected, LITERALS) or isinstance(found, LITERALS):
        return type(expected) is type(found) and (expected == found or (expected != expected and found != found))
    return isinstance(expected, Tensor) is isinstance(found, Tensor)


def _same_tensors(expected: Tensor, found: Tensor) -> bool:
    if expected.dtype != found.dtype or expected.layout != found.layout or expected.is_nested or found.is_nested:
        return expected.dtype == found.dtype and expected.is_nested and found.is_nested
    if expected.shape != found.shape:
        return False
    if expected.layout is not torch.strided or expected.is_quantized or expected.is_meta:
        return True
    if torch.equal(expected, found) or expected.numel() == 0:
        return True
    wide = torch.complex128 if expected.is_complex() else torch.float64
    first, second = expected.to(wide), found.to(wide)
    same = (first == second) | (first.isnan() & second.isnan())
    error = (first - second)[~same].abs().nan_to_num(nan=math.inf)
    finite = first[first.isfinite()]
    return bool(error.norm() <= _RELATIVE * finite.norm())


def _mark(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf if isinstance(leaf, LITERALS) else type(leaf).__name__
    if leaf.layout is not torch.strided or leaf.is_nested or leaf.is_meta or leaf.is_quantized:
        return str(leaf.layout)
    numbers = leaf.detach().abs() if leaf.is_complex() else leaf.detach().double()
    return tuple(leaf.shape), leaf.dtype, float(numbers.sum()), float(numbers.abs().sum())


def _alike(expected: Any, found: Any) -> bool:
    if not isinstance(expected, tuple) or not isinstance(found, tuple) or isinstance(expected, torch.Size):
        return bool(expected == found)
    limit = _RELATIVE * max(abs(expected[-1]), abs(found[-1]))
    pairs = zip(expected[2:], found[2:], strict=True)
    return expected[:2] == found[:2] and all(abs(a - b) <= limit or (a != a and b != b) for a, b in pairs)
