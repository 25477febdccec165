"""Feeding calibration data: what a batch means for a model's forward, and a loop with a progress bar."""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.utils.data import Dataset

from fxquant.capture.copy_module import copy_module
from fxquant.capture.inputs import split_inputs
from fxquant.errors import CalibrationError, FxquantError

Batch = tuple[tuple[Any, ...], dict[str, Any]]


def example_of(model: nn.Module, data: Iterable[Any], example_inputs: Any) -> tuple[Any, Iterator[Batch]]:
    """Example inputs for capture, and every batch of ``data`` as arguments of ``forward``.

    Args:
        model: whose forward the batches are for.
        data: any iterable, one-shot iterators included; no batch is lost.
        example_inputs: the user's, None for the first batch.

    Raises:
        CalibrationError: there is no batch, or it does not fit ``forward``.
    """
    iterator = iter(data)
    try:
        first = next(iterator)
    except StopIteration:
        raise CalibrationError(
            "calibration_data is empty", remedy="pass at least one batch; a list can be read again, a generator not"
        ) from None
    resolve = BatchResolver(model, example_inputs)
    if isinstance(data, Mapping):
        raise CalibrationError("calibration_data is one dict", remedy="pass a list of batches: [batch]")
    if isinstance(data, (torch.Tensor, Dataset)):
        _require_batches(model, resolve(first), data)
    batches = (resolve(batch) for batch in itertools.chain([first], iterator))
    if example_inputs is not None:
        return example_inputs, _sized(batches, data)
    args, kwargs = resolve(first)
    if kwargs and args:
        raise CalibrationError("a batch mixes positional and keyword inputs", remedy="pass example_inputs")
    return kwargs or args, _sized(batches, data)


def _require_batches(model: nn.Module, first: Batch, data: Any) -> None:
    """Refuse a tensor or a data set whose items the model does not take: they may be meant to be batched first."""
    args, kwargs = first
    try:
        with torch.no_grad():
            copy_module(model)(*args, **kwargs)
    except Exception as error:
        kind, item = type(data).__name__, "row" if isinstance(data, torch.Tensor) else "item"
        whole = "[x], or x.split(32)" if isinstance(data, torch.Tensor) else "a DataLoader over it"
        raise CalibrationError(
            f"calibration_data is one {kind}, and the model fails on its first {item}: {type(error).__name__}: {error}",
            remedy=f"pass {whole}, if {item}s are not batches",
        ) from error


class _SizedIterator:
    """An iterator that remembers how many batches there are, for the progress bar."""

    def __init__(self, batches: Iterator[Batch], length: int) -> None:
        self.batches, self.length = batches, length

    def __iter__(self) -> Iterator[Batch]:
        return self.batches

    def __next__(self) -> Batch:
        return next(self.batches)

    def __len__(self) -> int:
        return self.length


def _sized(batches: Iterator[Batch], data: Any) -> Any:
    try:
        return _SizedIterator(batches, len(data)) if isinstance(data, Sized) else batches
    except TypeError:  # a DataLoader over an iterable dataset has __len__ but no length
        return batches


class BatchResolver:
    """Decides what a batch means: inputs, or inputs and a label.

    Args:
        model: whose ``forward`` is bound.
        example_inputs: when given, batches take its form.
    """

    def __init__(self, model: nn.Module, example_inputs: Any = None) -> None:
        self.signature = inspect.signature(model.forward)
        self.count = None if example_inputs is None else len(split_inputs(example_inputs)[0])
        self.name = type(model).__name__

    def __call__(self, batch: Any) -> Batch:
        """Arguments for ``forward`` from one batch.

        Raises:
            CalibrationError: the batch fits in two ways, or in none.
        """
        if isinstance(batch, Mapping):
            return (), self._by_name(batch)
        if not isinstance(batch, (tuple, list)):
            return (batch,), {}
        items = tuple(batch)
        if len(items) == 2 and isinstance(items[0], (tuple, list, Mapping)) and _looks_like_label(items[1]):
            args, kwargs = split_inputs(items[0])
            if not self._fits(items[:1]) and self._fits(args, kwargs):  # ((x, y), label)
                return args, kwargs
        if self.count is not None and 0 < self.count <= len(items):
            return items[: self.count], {}
        return self._by_signature(items), {}

    def _by_name(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        named = dict(batch)
        if not self._fits((), named):
            known = [key for key in self.signature.parameters if key in named]
            raise CalibrationError(
                f"a batch with {', '.join(map(repr, named)) or 'no inputs'} does not fit "
                f"{self.name}.forward{self.signature}",
                remedy=f"yield dicts of {', '.join(map(repr, known))} only"
                if known
                else "yield dicts of keyword inputs, or (batch,) if forward takes the dict itself",
            )
        return named

    def _by_signature(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        whole, without_label = self._fits(items), len(items) > 1 and self._fits(items[:-1])
        if whole and without_label and _looks_like_label(items[-1]):
            raise CalibrationError(
                f"a batch of {len(items)} values fits {self.name}.forward with and without its last value",
                remedy="pass example_inputs=(x,) if the last value is a label, or (x, y) if both are inputs",
            )
        if whole:
            return items
        if without_label:
            return items[:-1]
        if self._fits(items[:1]) and len(items) > 1:
            return items[:1]
        raise CalibrationError(
            f"a batch of {len(items)} values does not fit {self.name}.forward{self.signature}",
            remedy="yield tuples of inputs, dicts of keyword inputs, or (input, label) pairs",
        )

    def _fits(self, items: tuple[Any, ...], named: Mapping[str, Any] | None = None) -> bool:
        try:
            self.signature.bind(*items, **(named or {}))
        except TypeError:
            return False
        return True


def _looks_like_label(value: Any) -> bool:
    """Integers, plain numbers, and up to one row a sample (one-hot, targets of regression): what data sets give."""
    if isinstance(value, torch.Tensor):
        return value.dim() <= 2 or not value.is_floating_point()
    return isinstance(value, (int, float, str))


def calibrate(observed: nn.Module, batches: Iterable[Batch], *, progress: bool) -> int:
    """Run every batch through an observed model.

    Args:
        observed: from ``prepare_fx``.
        batches: (args, kwargs) pairs.
        progress: show a bar; only ever on a terminal.

    Returns:
        Number of batches.

    Raises:
        CalibrationError: a value is not finite, or the model fails on a batch.
    """
    total = len(batches) if isinstance(batches, Sized) else None
    shown = progress and sys.stderr.isatty()
    steps = track(batches, "calibrating", total=total, console=Console(stderr=True), disable=not shown, transient=True)
    count = 0
    with torch.no_grad():
        for args, kwargs in steps:
            _run(observed, args, kwargs, count)
            count += 1
    return count


def _run(observed: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], batch: int) -> None:
    try:
        observed(*args, **kwargs)
    except FxquantError:
        raise
    except Exception as error:
        raise CalibrationError(
            f"the model fails on calibration batch {batch}: {type(error).__name__}: {error}",
            remedy="pass batches that the model takes; other shapes than the example's only where it allows them",
        ) from error
