"""Swap observed modules for quantized ones."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Mapping
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
from fxquant.backends.native.kernels.functional import NumbersOnly, QFunctional
from fxquant.backends.select import select_backend
from fxquant.eager.custom import QUANTIZED_BY, custom_classes, is_users, made_by
from fxquant.eager.hooks import bare, keep_hooks
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
    mapping: Mapping[type[nn.Module], Any] | None = None,
    inplace: bool = False,
    remove_qconfig: bool = True,
    is_reference: bool = False,
    convert_custom_config_dict: Mapping[str, Any] | None = None,
    use_precomputed_fake_quant: bool = False,
) -> _Model:
    """Swap the modules of a calibrated model for quantized ones.

    Weights are packed for the engine that ``torch.backends.quantized.engine`` names.

    Args:
        module: from ``prepare``.
        mapping: the classes to swap, as ``get_default_static_quant_module_mappings`` makes it: others stay as they are,
            and classes of yours are made by their ``from_float``. None for all that the catalogue knows.
        inplace: change ``module`` itself instead of a copy.
        remove_qconfig: remove the attributes ``qconfig``.
        is_reference: not implemented; for the signature.
        convert_custom_config_dict: ``{"observed_to_quantized_custom_module_class": {Observed: Quantized}}``; the
            quantized class has ``from_observed``.
        use_precomputed_fake_quant: of no consequence: trained scales are always kept.

    Raises:
        CalibrationError: no observer saw data. Modules that alone were never called stay float, with a warning.
        ConvertError: ``is_reference``, activations that are to be something else than uint8, or a module that has no
            kernel for what its QConfig asks for.
    """
    if is_reference:
        raise ConvertError("eager.convert makes no reference models", remedy="use convert_to_reference_fx")
    model: Any = deploy(module if inplace else copy.deepcopy(module))
    engine = select_backend(None, None).engine
    made = _users(model, mapping, custom_classes(convert_custom_config_dict, QUANTIZED_BY))
    users = tuple({type(child) for child in made})
    idle = _never_called(model, users)

    def swap(child: nn.Module, role: Role, path: str) -> None:
        if role.part is Part.NONE or getattr(child, "qconfig", None) is None:
            return
        if path in idle and role.part is Part.FUNCTIONAL:
            made[child] = NumbersOnly(path)
        elif path not in idle and (mapping is None or type(child) in mapping):
            made[child] = made.get(child) or _quantized(child, role, path, engine)

    walk(model, swap, skip=users)
    for child, quantized in made.items():
        keep_hooks(child, quantized)
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


def _users(
    model: nn.Module, mapping: Mapping[type[nn.Module], Any] | None, custom: Mapping[type[nn.Module], Any]
) -> dict[nn.Module, nn.Module]:
    """What modules become that are swapped by classes of the user's."""
    own = {kind: made for kind, made in (mapping or {}).items() if is_users(made)}
    made: dict[nn.Module, nn.Module] = {}
    for path, child in model.named_modules():
        if getattr(child, "qconfig", None) is None or type(child) not in (*custom, *own):
            continue
        kind, method = (
            (custom[type(child)], "from_observed") if type(child) in custom else (own[type(child)], "from_float")
        )
        made[child] = made_by(kind, method, child, path)
    return made


def _put(model: nn.Module, made: dict[nn.Module, nn.Module]) -> None:
    """Put quantized modules in the place of others, under all of their names."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in made and parent not in made:
                parent._modules[name] = made[child]


def _never_called(model: nn.Module, skip: Collection[type]) -> list[str]:
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

    walk(model, look, skip=skip)
    if idle and not seen:
        raise CalibrationError(
            f"{len(idle)} observers saw no data: {', '.join(idle[:10])}",
            remedy="run calibration batches through the prepared model before converting it; any one batch "
            "will do where a saved state_dict is loaded afterwards",
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
    return ArrivingLookup(bare(module), *output)


def _step(module: nn.Module, role: Role, output: _Range, path: str) -> nn.Module:
    return Step(bare(module), *output)


_MAKERS: dict[Part, Callable[[nn.Module, Role, _Range, str], nn.Module]] = {
    Part.QUANTIZE: _quantize,
    Part.FUNCTIONAL: _functional,
    Part.BATCH_NORM: _batch_norm,
    Part.LOOKUP: _lookup,
    Part.STEP: _step,
}
