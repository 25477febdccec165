"""Swap observed modules for quantized ones."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fxquant.backends.native.kernels.arriving import (
    ArrivingClip,
    ArrivingLookup,
    BatchNormLayer,
    Dequantize,
    RequireIntegers,
    Step,
)
from fxquant.backends.native.kernels.base import Kernel, Quantize
from fxquant.backends.native.kernels.functional import QFunctional
from fxquant.backends.select import select_backend
from fxquant.eager.integer_weights import make_by_mode, make_static
from fxquant.eager.prepare import OBSERVER, walk, without_observers
from fxquant.eager.recurrent import make_static_recurrent
from fxquant.eager.roles import Part, Role
from fxquant.eager.train import deploy
from fxquant.errors import CalibrationError, ConvertError
from fxquant.passes.compute_qparams import has_seen_data, observed_qparams
from fxquant.plan.read_qconfig import mode_of

_Model = TypeVar("_Model", bound=nn.Module)
_Range = tuple[Tensor, Tensor]

_TAKES_INTEGERS = (Part.WEIGHTED, Part.BATCH_NORM, Part.LOOKUP, Part.STEP)


def convert(
    module: _Model,
    mapping: Any = None,
    inplace: bool = False,
    remove_qconfig: bool = True,
    is_reference: bool = False,
    convert_custom_config_dict: Any = None,
) -> _Model:
    """Swap the modules of a calibrated model for quantized ones.

    Weights are packed for the engine that ``torch.backends.quantized.engine`` names.

    Args:
        module: from ``prepare``.
        mapping, is_reference, convert_custom_config_dict: not implemented; for the signature.
        inplace: change ``module`` itself instead of a copy.
        remove_qconfig: remove the attributes ``qconfig``.

    Raises:
        CalibrationError: no observer saw data. Modules that alone were never called stay float, with a warning.
        ConvertError: an argument that is not implemented, activations that are to be something else than uint8, or a
            module that has no kernel for what its QConfig asks for.
    """
    if mapping is not None or is_reference or convert_custom_config_dict is not None:
        raise ConvertError(
            "eager.convert takes no mapping, custom config or is_reference", remedy="use prepare_fx and convert_fx"
        )
    model: Any = deploy(module if inplace else copy.deepcopy(module))
    engine = select_backend(None, None).engine
    made: dict[nn.Module, nn.Module] = {}
    idle = _never_called(model)

    def swap(child: nn.Module, role: Role, path: str) -> None:
        if role.part is not Part.NONE and path not in idle and getattr(child, "qconfig", None) is not None:
            made[child] = made.get(child) or _quantized(child, role, path, engine)

    walk(model, swap)
    if model in made:
        return made[model]  # type: ignore[return-value]
    _put(model, made)
    for layer in model.modules():
        if isinstance(layer, nn.TransformerEncoderLayer) and isinstance(layer.linear1, Kernel):
            layer.activation_relu_or_gelu = 0  # else eval mode hands the weights to one kernel for float layers
    if remove_qconfig:
        for child in model.modules():
            without_observers(child)
    return model  # type: ignore[no-any-return]


def _put(model: nn.Module, made: dict[nn.Module, nn.Module]) -> None:
    """Put quantized modules in the place of others, under all of their names."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in made and parent not in made:
                parent._modules[name] = made[child]


def _never_called(model: nn.Module) -> list[str]:
    """Paths of observed modules that no calibration batch went through; they stay float, and the user is told.

    Raises:
        CalibrationError: that is so for all of them.
    """
    idle: list[str] = []
    seen: list[str] = []

    def look(child: nn.Module, role: Role, path: str) -> None:
        observer = child._modules.get(OBSERVER)
        if observer is not None and not isinstance(observer, nn.Identity):
            (seen if has_seen_data(observer) else idle).append(path)

    walk(model, look)
    if idle and not seen:
        raise CalibrationError(
            f"{len(idle)} observers saw no data: {', '.join(idle[:10])}",
            remedy="run calibration batches through the prepared model before converting it",
        )
    if idle:
        warnings.warn(f"never called while calibrating, so left in float: {', '.join(idle)}", stacklevel=3)
    return idle


def _quantized(module: nn.Module, role: Role, path: str, engine: str) -> nn.Module:
    """The quantized module in place of ``module``."""
    if role.part is Part.DEQUANTIZE:
        return Dequantize()
    if role.part is Part.CLIP:
        layer: Any = role.layer
        return ArrivingClip(float(layer.min_val), float(layer.max_val))
    if role.part in (Part.WEIGHTED, Part.TABLE, Part.RECURRENT) and (mode := mode_of(module.qconfig)):
        return make_by_mode(role, path, module.qconfig, mode, engine)
    output = _output_range(module, role, path)
    if role.part is Part.WEIGHTED:
        quantized = make_static(module, role, path, engine, output)
    elif role.part is Part.RECURRENT:
        quantized = make_static_recurrent(module, role, path, engine, output)
    else:
        quantized = _MAKERS[role.part](module, role, output, path)
    if role.part in _TAKES_INTEGERS:
        quantized.register_forward_pre_hook(RequireIntegers(path))
    return quantized


def _output_range(module: nn.Module, role: Role, path: str) -> _Range:
    """Scale float32 [] and zero point int64 [] of a module's output."""
    if role.fixed is not None:
        return torch.tensor(role.fixed.scale), torch.tensor(role.fixed.zero_point)
    observer: Any = getattr(module, OBSERVER, None)
    if observer is None:
        raise ConvertError(f"{path} has no observer", module_path=path, remedy="call prepare, and calibrate, first")
    if str(getattr(observer, "dtype", torch.uint8)).removeprefix("torch.") not in ("uint8", "quint8"):
        raise ConvertError(
            f"activations are uint8 here, and the qconfig of {path} asks for {observer.dtype}",
            module_path=path,
            remedy="use get_default_qconfig, or an activation observer with dtype=torch.uint8",
        )
    qparams = observed_qparams(path, observer)
    return qparams.scale, qparams.zero_point


def _quantize(module: nn.Module, role: Role, output: _Range, path: str) -> nn.Module:
    return Quantize(*output)


def _functional(module: nn.Module, role: Role, output: _Range, path: str) -> nn.Module:
    return QFunctional(*output, path)


def _batch_norm(module: nn.Module, role: Role, output: _Range, path: str) -> nn.Module:
    return BatchNormLayer(role.layer, *output, relu=role.relu)


def _lookup(module: nn.Module, role: Role, output: _Range, path: str) -> nn.Module:
    return ArrivingLookup(without_observers(copy.deepcopy(module)), *output)


def _step(module: nn.Module, role: Role, output: _Range, path: str) -> nn.Module:
    return Step(without_observers(copy.deepcopy(module)), *output)


_MAKERS: dict[Part, Callable[[nn.Module, Role, _Range, str], nn.Module]] = {
    Part.QUANTIZE: _quantize,
    Part.FUNCTIONAL: _functional,
    Part.BATCH_NORM: _batch_norm,
    Part.LOOKUP: _lookup,
    Part.STEP: _step,
}
