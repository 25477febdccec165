"""The two sides of every comparison: fxquant and torch.ao's FX mode, behind one interface."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Side(Protocol):
    """One way to quantize a network."""

    name: str

    def missing(self) -> str:
        """Why this side cannot run here; empty when it can."""

    def prepare(self, model: nn.Module, example_inputs: tuple[Tensor, ...]) -> Any:
        """Return an observed copy of `model`, with this side's default mapping."""

    def convert(self, observed: Any) -> nn.Module:
        """Return the quantized model of an observed one that has seen its calibration data."""


@dataclass(frozen=True)
class TorchAo:
    """torch.ao's `prepare_fx` and `convert_fx` with the default mapping of one engine.

    Attributes:
        engine: `"x86"` or `"onednn"`.
    """

    engine: str = "x86"

    @property
    def name(self) -> str:
        """Name shown in the tables."""
        return f"torch.ao {self.engine}"

    def missing(self) -> str:
        """Why this side cannot run here; empty when it can."""
        if self.engine not in torch.backends.quantized.supported_engines:
            return f"torch has no engine {self.engine} here"
        try:
            with _quiet():
                importlib.import_module("torch.ao.quantization.quantize_fx")
        except ImportError as error:
            return f"torch.ao is absent ({error})"
        return ""

    def prepare(self, model: nn.Module, example_inputs: tuple[Tensor, ...]) -> Any:
        """Return an observed copy of `model`."""
        with _quiet(), _engine(self.engine):
            from torch.ao.quantization import get_default_qconfig_mapping
            from torch.ao.quantization.quantize_fx import prepare_fx

            return prepare_fx(model, get_default_qconfig_mapping(self.engine), example_inputs)

    def convert(self, observed: Any) -> nn.Module:
        """Return the quantized model, packed for `engine`."""
        with _quiet(), _engine(self.engine):
            from torch.ao.quantization.quantize_fx import convert_fx

            quantized: nn.Module = convert_fx(observed)
            return quantized


@dataclass(frozen=True)
class Fxquant:
    """fxquant with its default mapping.

    Attributes:
        backend: passed to `get_default_qconfig_mapping`.
    """

    backend: str = "x86"
    name: str = "fxquant"

    def missing(self) -> str:
        """Why this side cannot run here; empty when it can."""
        try:
            importlib.import_module("fxquant")
        except ImportError as error:
            return f"fxquant cannot be imported ({error})"
        return ""

    def prepare(self, model: nn.Module, example_inputs: tuple[Tensor, ...]) -> Any:
        """Return an observed copy of `model`."""
        import fxquant

        return fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(self.backend), example_inputs)

    def convert(self, observed: Any) -> nn.Module:
        """Return the quantized model."""
        import fxquant

        quantized: nn.Module = fxquant.convert_fx(observed)
        return quantized


SIDES: tuple[Side, ...] = (TorchAo("x86"), TorchAo("onednn"), Fxquant())
"""Every side, in the order of the tables."""


def available_sides(only: Sequence[str] = ()) -> list[Side]:
    """The sides that can run here, of those named in `only` (all when empty); the others are reported."""
    chosen: list[Side] = []
    for side in SIDES:
        if only and side.name not in only:
            continue
        reason = side.missing()
        if reason:
            print(f"skipped {side.name}: {reason}")
        else:
            chosen.append(side)
    return chosen


def calibrate(observed: nn.Module, batches: Sequence[Tensor]) -> None:
    """Run every batch through an observed model without gradients."""
    with torch.no_grad(), _quiet():
        for batch in batches:
            observed(batch)


def quantize(side: Side, model: nn.Module, batches: Sequence[Tensor]) -> nn.Module:
    """Prepare, calibrate and convert `model`; its first run, with torch's warnings silenced, is done too.

    `fxquant.quantize` is used where the side is fxquant, so that what a newcomer gets is what is measured.
    """
    if isinstance(side, Fxquant):
        import fxquant

        quantized: nn.Module = fxquant.quantize(model, batches, example_inputs=(batches[0],), progress=False)
        return quantized
    observed = side.prepare(model, (batches[0],))
    calibrate(observed, batches)
    quantized = side.convert(observed)
    calibrate(quantized, [batches[0][:1]])
    return quantized


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch.ao's warnings about its own deprecation; nothing outside the block is affected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _engine(name: str) -> Iterator[None]:
    """Make `name` the quantized engine for the block."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before
