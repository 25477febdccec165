"""Whether what a model computes depends on the calls before: on as many, on other values, on other sizes.

A graph computes anew what a model keeps between calls. That is the same where a model would keep the same from any
call, such as a table that grows, and another where the first call decides.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.capture.copy_module import copy_module
from fxquant.capture.inputs import copy_tensors, split_inputs
from fxquant.capture.keep_state import randomness_kept
from fxquant.capture.structures import leaves

Change = Callable[[Tensor], Tensor]


def depends_on_history(model: nn.Module, example_inputs: Any, restore: Callable[[], None] = lambda: None) -> bool:
    """Whether a model that was called before computes something else.

    Args:
        model: not changed; copies of it are called.
        example_inputs: of the capture.
        restore: puts back what a call changes outside of the copies.
    """

    def results_of(*calls: Any) -> list[Any]:
        copied = copy_module(model)
        try:
            return [run_eagerly(copied, given) for given in calls]
        finally:
            restore()

    (expected,) = results_of(example_inputs)
    other = _changed(example_inputs, _other_values)
    try:
        (of_other,) = results_of(other)
    except Exception:  # the model may refuse other values
        other, of_other = example_inputs, expected
    try:
        if not _same(results_of(example_inputs, other, example_inputs), [expected, of_other, expected]):
            return True
    except Exception:  # its cache is full
        return True
    for resized in _other_sizes(example_inputs):
        try:
            (of_resized,) = results_of(resized)
        except Exception:  # it does not take such inputs
            continue
        try:
            there, back = results_of(example_inputs, resized), results_of(resized, example_inputs)
        except Exception:  # what it keeps does not fit
            return True
        if not (_same(there, [expected, of_resized]) and _same(back, [of_resized, expected])):
            return True
    return False


def run_eagerly(model: nn.Module, example_inputs: Any) -> Any:
    """What a copy of the user's model returns; the random state stays as it is."""
    args, kwargs = split_inputs(example_inputs)
    with torch.no_grad(), randomness_kept():
        torch.default_generator.manual_seed(0)
        return model(*copy_tensors(args), **copy_tensors(kwargs))


def _changed(example_inputs: Any, change: Change) -> Any:
    args, kwargs = split_inputs(example_inputs)
    return {**copy_tensors(kwargs, change)} if kwargs else tuple(copy_tensors(args, change))


def _other_values(tensor: Tensor) -> Tensor:
    if not tensor.dim() or tensor.dtype == torch.bool or tensor.is_complex():
        return tensor
    return tensor.flip(0) * 0.5 + 0.1 if tensor.is_floating_point() else tensor.flip(-1)


def _other_sizes(example_inputs: Any) -> Iterator[Any]:
    """The example with more rows, and with fewer and more tokens or pixels."""
    tensors = [leaf for leaf in leaves(split_inputs(example_inputs)) if isinstance(leaf, Tensor)]
    for is_image in {tensor.dim() > 3 for tensor in tensors if tensor.dim() > 1}:
        places = (2, 3) if is_image else (1,)
        for at, share in (((0,), 2.0), (places, 0.5), (places, 2.0)):
            yield _changed(example_inputs, functools.partial(_resized, places=at, share=share))


def _resized(tensor: Tensor, places: tuple[int, ...], share: float) -> Tensor:
    """A tensor with another size, of values that it has: indices stay in their range."""
    for place in places:
        if place < tensor.dim():
            size = tensor.shape[place]
            indices = torch.arange(max(int(share * size), 1), device=tensor.device) % max(size, 1)
            tensor = tensor.index_select(place, indices)
    return tensor


def _same(first: Any, second: Any) -> bool:
    pairs = zip(leaves(first), leaves(second), strict=False)
    return all(
        a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in pairs
        if isinstance(a, Tensor) and isinstance(b, Tensor)
    )
