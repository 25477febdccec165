"""Attributes that carry something from one call of a model over to the next: counters, averages, the largest so far.

A cache is set once, and then fits; what is set in each call may be set anew, or made of what it was. Told by changing
what it was: a call that sets it to something else then, or computes something else, depends on the call before. So it
is found for the example, too, on which a counter of large values stays at zero.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.capture.against_eager import same_results
from fxquant.capture.call_history import run_eagerly
from fxquant.capture.copy_module import copy_module
from fxquant.capture.fingerprint import fingerprint
from fxquant.capture.keep_state import Change
from fxquant.ir.walk_modules import OF_EVERY_MODULE

_FAR = 1000  # from any threshold that the example lies at


def carried_over(model: nn.Module, example_inputs: Any, changes: Collection[Change]) -> tuple[set[Change], set[Change]]:
    """Attributes whose value before a call decides their value after it, or what it computes; and those set anew.

    Args:
        model: the user's; copies of it are called.
        example_inputs: of the capture.
        changes: attributes that a call sets.
    """
    own = [change for change in changes if not change.tensor and change.name not in OF_EVERY_MODULE]
    if not own:
        return set(), set()
    try:
        used = copy_module(model)
        run_eagerly(used, example_inputs)
        with _noting_what_is_set(used) as names_set:
            run_eagerly(used, example_inputs)
        again = [change for change in own if (change.module_path, change.name) in names_set]
        expected = _after_call(used, example_inputs, again, _same) if again else ([], None)
    except Exception:  # it refuses to be called again
        return set(), set()
    found = set[Change]()
    for move in (_more, _less) if again else ():
        found |= _moved_by(used, example_inputs, again, move, expected)
    return found, set(again) - found


def _moved_by(
    used: nn.Module, example_inputs: Any, changes: list[Change], move: Callable[[Any], Any], expected: Any
) -> set[Change]:
    """Those attributes that make a difference when they are moved before a call, all at once where none does."""
    try:
        values, result = _after_call(used, example_inputs, changes, move)
    except Exception:  # it computes with them
        values, result = None, None
    if values is None or not same_results(expected[1], result):
        by_name: dict[str, list[Change]] = {}
        for change in changes:
            by_name.setdefault(change.name, []).append(change)
        if len(by_name) == 1:
            return set(changes)
        places = {change: index for index, change in enumerate(changes)}
        return {
            change
            for alike in by_name.values()
            for change in _moved_by(
                used, example_inputs, alike, move, ([expected[0][places[item]] for item in alike], expected[1])
            )
        }
    return {change for change, before, after in zip(changes, expected[0], values, strict=True) if before != after}


def _after_call(
    used: nn.Module, example_inputs: Any, changes: list[Change], move: Callable[[Any], Any]
) -> tuple[list[Any], Any]:
    """What attributes are after a call in which they were moved before, and what the call gives."""
    copied = copy_module(used)
    spaces = [(vars(copied.get_submodule(change.module_path)), change.name) for change in changes]
    for space, name in spaces:
        if name in space:
            space[name] = move(space[name])
    result = run_eagerly(copied, example_inputs)
    return [fingerprint(space.get(name), identity=False) for space, name in spaces], result


@contextmanager
def _noting_what_is_set(model: nn.Module) -> Iterator[set[tuple[str, str]]]:
    """(path, name) of the attributes of a model's modules that are set inside."""
    paths = {id(module): path for path, module in model.named_modules()}
    found, before = set[tuple[str, str]](), nn.Module.__setattr__

    def note(module: nn.Module, name: str, value: Any) -> None:
        found.add((paths.get(id(module), "?"), name))
        before(module, name, value)

    setattr(nn.Module, "__setattr__", note)  # noqa: B010
    try:
        yield found
    finally:
        setattr(nn.Module, "__setattr__", before)  # noqa: B010


def _same(value: Any) -> Any:
    return value


def _more(value: Any) -> Any:
    return _moved(value, _FAR)


def _less(value: Any) -> Any:
    return _moved(value, -_FAR)


def _moved(value: Any, by: int) -> Any:
    """A value far from another one; the same where there is no telling what else it could be."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + by
    if isinstance(value, Tensor):
        return _moved_tensor(value, by)
    if isinstance(value, torch.Size):
        return torch.Size([size + abs(by) for size in value])
    if type(value) in (tuple, list):
        return type(value)(_moved(item, by) for item in value)
    if type(value) is dict:
        return {key: _moved(item, by) for key, item in value.items()}
    return value


def _moved_tensor(value: Tensor, by: int) -> Tensor:
    if value.layout is not torch.strided or value.is_quantized or value.is_complex():
        return value
    if value.dtype == torch.bool:
        return value.logical_not()
    is_narrow = value.dtype in (torch.uint8, torch.int8)
    return value.bitwise_xor(1) if is_narrow else value.detach() + by
