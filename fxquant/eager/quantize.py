"""Static quantization by hand in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import nn

from fxquant.eager.convert import convert
from fxquant.eager.prepare import prepare

_Model = TypeVar("_Model", bound=nn.Module)


def quantize(
    model: _Model, run_fn: Callable[..., Any], run_args: Sequence[Any], mapping: Any = None, inplace: bool = False
) -> _Model:
    """Prepare, calibrate and convert a model whose borders and QConfigs are in place.

    Args:
        model: float, in eval mode.
        run_fn: called as ``run_fn(prepared, *run_args)``: runs calibration data.
        run_args: its further arguments.
        mapping: not implemented; for the signature.
        inplace: change ``model`` itself instead of a copy.

    Raises:
        FxquantError: as ``prepare`` and ``convert`` do.
    """
    prepared = prepare(model, inplace)
    run_fn(prepared, *run_args)
    return convert(prepared, mapping, inplace=True)
