"""Static quantization, and training quantized, by hand in one call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from torch import nn

from fxquant.eager.convert import convert
from fxquant.eager.prepare import prepare
from fxquant.eager.train import prepare_qat

_Model = TypeVar("_Model", bound=nn.Module)


def quantize(
    model: _Model, run_fn: Callable[..., Any], run_args: Sequence[Any], mapping: Any = None, inplace: bool = False
) -> _Model:
    """Prepare, calibrate and convert a model whose borders and QConfigs are in place.

    Args:
        model: float; it is calibrated in eval mode.
        run_fn: called as ``run_fn(prepared, *run_args)``: runs calibration data.
        run_args: its further arguments.
        mapping: as for ``convert``.
        inplace: change ``model`` itself instead of a copy.

    Raises:
        FxquantError: as ``prepare`` and ``convert`` do.
    """
    prepared = prepare((model if inplace else copy.deepcopy(model)).eval(), inplace=True)
    run_fn(prepared, *run_args)
    return convert(prepared, mapping, inplace=True)


def quantize_qat(model: _Model, run_fn: Callable[..., Any], run_args: Sequence[Any], inplace: bool = False) -> _Model:
    """Prepare for training, train and convert a model whose borders and QConfigs are in place.

    Args:
        model: float; it is trained in training mode.
        run_fn: called as ``run_fn(prepared, *run_args)``: trains.
        run_args: its further arguments.
        inplace: change ``model`` itself instead of a copy.

    Raises:
        FxquantError: as ``prepare_qat`` and ``convert`` do.
    """
    prepared = prepare_qat((model if inplace else copy.deepcopy(model)).train(), inplace=True)
    run_fn(prepared, *run_args)
    return convert(prepared, inplace=True)


def default_eval_fn(model: Callable[[Any], Any], calib_data: Iterable[tuple[Any, Any]]) -> None:
    """Call ``model`` with each input of pairs of input and target: a ``run_fn`` for ``quantize``."""
    for data, _ in calib_data:
        model(data)
