"""Dynamic quantization by hand: linear and recurrent layers are swapped, nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from fxquant.eager.convert import convert
from fxquant.eager.prepare import propagate_qconfig_, walk
from fxquant.eager.roles import Part, Role
from fxquant.errors import ConfigError
from fxquant.plan.read_qconfig import mode_of
from fxquant.qconfig import (
    default_dynamic_qconfig,
    float16_dynamic_qconfig,
    float_qparams_weight_only_qconfig,
    float_qparams_weight_only_qconfig_4bit,
)

_Model = TypeVar("_Model", bound=nn.Module)

_BY_DTYPE = {
    "int8": default_dynamic_qconfig,
    "float16": float16_dynamic_qconfig,
    "uint8": float_qparams_weight_only_qconfig,
    "uint4x2": float_qparams_weight_only_qconfig_4bit,
}
_LAYERS = (nn.Linear, nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell)
_TABLES = (nn.Embedding, nn.EmbeddingBag)
_SWAPPED = (Part.WEIGHTED, Part.RECURRENT, Part.TABLE)


def quantize_dynamic(
    model: _Model,
    qconfig_spec: Mapping[Any, Any] | Collection[Any] | None = None,
    dtype: torch.dtype = torch.int8,
    mapping: Any = None,
    inplace: bool = False,
) -> _Model:
    """Quantize weights now and activations when they arrive; there is nothing to calibrate.

    Args:
        model: float; the result is in eval mode. Attributes ``qconfig`` that are None, or ask for this kind of
            quantization, go before ``qconfig_spec``.
        qconfig_spec: module classes and paths to quantize, or a dictionary of them to QConfigs; by default linear and
            recurrent layers, or embeddings where ``dtype`` is for these.
        dtype: int8 (or qint8), float16, and for embeddings quint8 or quint4x2; of no consequence to a dictionary.
        mapping: the classes to swap, as for ``convert``; None for all that have kernels.
        inplace: change ``model`` itself instead of a copy.

    Raises:
        ConfigError: an unknown dtype, a path that matches nothing, or a named module that cannot be quantized.
        ConvertError: a module has no kernel for what its QConfig asks for.
    """
    given = _as_qconfigs(qconfig_spec, dtype)
    quantized = (model if inplace else copy.deepcopy(model)).eval()
    _require_names(quantized, given)
    for module in quantized.modules():
        own = module.__dict__.get("qconfig")
        if own is not None and not mode_of(own):  # left from static quantization
            del module.qconfig
    propagate_qconfig_(quantized, given)

    def keep(module: nn.Module, role: Role, path: str) -> None:
        if role.part in _SWAPPED or module.qconfig is None:
            return
        if path in given or type(module) in given:
            raise ConfigError(
                f"{type(module).__name__} cannot be quantized dynamically", module_path=path, remedy="leave it out"
            )
        module.qconfig = None  # type: ignore[assignment]

    walk(quantized, keep)
    return convert(quantized, mapping, inplace=True)


def _as_qconfigs(spec: Mapping[Any, Any] | Collection[Any] | None, dtype: torch.dtype) -> dict[Any, Any]:
    """QConfigs by module class or path."""
    if isinstance(spec, Mapping):
        return dict(spec)
    name = str(dtype).removeprefix("torch.").removeprefix("q")
    if name not in _BY_DTYPE:
        raise ConfigError(f"nothing is quantized dynamically to {dtype}", remedy=f"use one of {', '.join(_BY_DTYPE)}")
    default = _TABLES if name.startswith("uint") else _LAYERS
    return dict.fromkeys(default if spec is None else spec, _BY_DTYPE[name])


def _require_names(model: nn.Module, given: dict[Any, Any]) -> None:
    paths = {path for path, _ in model.named_modules()}
    missing = [key for key in given if isinstance(key, str) and key not in paths]
    if missing:
        raise ConfigError(f"quantize_dynamic: no module is called {missing[0]!r}", remedy="see model.named_modules()")
