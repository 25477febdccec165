"""Modules with weights as kernels: weights quantized and kernels chosen by the same functions as in a graph."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.backends.native.backend import NativeBackend
from fxquant.backends.native.kernels.arriving import ArrivingPad
from fxquant.backends.native.kernels.embedding import Embedding, EmbeddingBag
from fxquant.backends.native.kernels.recurrent import RecurrentLayers, RecurrentSteps
from fxquant.backends.native.module_kernel import WeightedCall, make_module_kernel
from fxquant.eager.prepare import INPUT_RANGE, STATISTICS
from fxquant.eager.roles import Part, Role
from fxquant.errors import ConvertError
from fxquant.fusion.rule import TRANSPOSED
from fxquant.ir.quant_plan import KernelChoice, Unit
from fxquant.ir.recurrent import recurrence_of
from fxquant.numerics.conv_geometry import as_tuple, output_rows
from fxquant.passes.compute_qparams import observed_qparams
from fxquant.passes.fold_weights import FloatWeight
from fxquant.passes.quantize_recurrent import quantize_recurrent
from fxquant.passes.quantize_tables import quantize_rows
from fxquant.passes.quantize_weights import QuantizedWeight, quantize_unit
from fxquant.passes.trained_weights import TrainedWeight
from fxquant.plan.backend import Call, Refusal

_GEOMETRY = ("stride", "padding", "dilation", "groups", "output_padding")


def make_static(module: nn.Module, role: Role, path: str, engine: str, output: tuple[Tensor, Tensor]) -> nn.Module:
    """The kernel of a convolution, transposed convolution or linear between integers.

    Args:
        module: observed; its ``qconfig`` builds the weight's observer.
        role: of ``module``.
        path: of ``module``, for messages.
        engine: that the model is for.
        output: scale and zero point of its output.

    Raises:
        ConvertError: no kernel takes it. CalibrationError: it was never called.
    """
    call, unit = weighted_unit(role, path, engine, "")
    trained = getattr(module, "trained_weight", None)
    if isinstance(trained, TrainedWeight):
        frozen = trained.frozen(unit, _float_weight(role))
    else:
        scale = observed_qparams(path, getattr(module, INPUT_RANGE)).scale
        observer = module.qconfig.weight()  # type: ignore[operator,union-attr]
        frozen = quantize_unit(unit, _float_weight(role), observer, scale, getattr(module, STATISTICS))
    kernel = make_module_kernel(unit, call, _tensors(frozen), output, role.relu)
    layer: Any = role.layer
    if not _pads_otherwise(layer):
        return kernel
    return nn.Sequential(ArrivingPad(layer._reversed_padding_repeated_twice, layer.padding_mode), kernel)


def make_by_mode(role: Role, path: str, qconfig: Any, mode: str, engine: str) -> nn.Module:
    """The kernel of a module with floats on both sides.

    Args:
        role: of the module.
        path: of the module, for messages.
        qconfig: builds the weight's observer.
        mode: as in ``Unit``.
        engine: that the model is for.

    Raises:
        ConvertError: no kernel of that mode takes the module.
    """
    if role.part is Part.TABLE:
        return _table(role, path, qconfig, mode, engine)
    if role.part is Part.RECURRENT:
        return _recurrent(role, path, qconfig, mode, engine)
    call, unit = weighted_unit(role, path, engine, mode)
    if mode == "float16":
        weight = _float_weight(role)
        tensors: dict[str, Tensor | None] = {
            "weight": weight.rows.clamp(-_LARGEST_HALF, _LARGEST_HALF).to(torch.float16),
            "bias": weight.bias,
        }
        return make_module_kernel(unit, call, tensors, None, role.relu)
    frozen = quantize_unit(unit, _float_weight(role), qconfig.weight())
    return make_module_kernel(unit, call, _tensors(frozen), None, role.relu)


_LARGEST_HALF = torch.finfo(torch.float16).max


def weighted_unit(role: Role, path: str, engine: str, mode: str) -> tuple[WeightedCall, Unit]:
    """The operator that a module calls, and the unit that stands for it."""
    layer: Any = role.layer
    assert role.row is not None
    geometry = {name: getattr(layer, name) for name in _GEOMETRY if name in _parameters(role)}
    if _pads_otherwise(layer):
        geometry["padding"] = 0
    call = WeightedCall.of(role.row, layer.weight, layer.bias, geometry)
    choice = _choice(call.kernels(engine, mode) if _has(role, mode) else None, role, path, mode)
    return call, Unit(path or role.row.name, role.row.name, "", (), kernel=choice, mode=mode)


def _pads_otherwise(layer: nn.Module) -> bool:
    """Whether a convolution pads with something else than zeros."""
    return getattr(layer, "padding_mode", "zeros") != "zeros"


def _tensors(frozen: QuantizedWeight) -> dict[str, Tensor | None]:
    """The buffers of a weighted kernel."""
    return {
        "weight": frozen.weight,
        "weight_scale": frozen.scale,
        "weight_zero_point": frozen.zero_point,
        "bias": None if frozen.bias is None else frozen.bias.to(torch.float32),
    }


def _parameters(role: Role) -> set[str]:
    assert role.row is not None
    return {parameter.name for parameter in role.row.parameters}


def _has(role: Role, mode: str) -> bool:
    return role.row is not None and (f"native.{mode}" if mode else "native") in role.row.kernels


def _choice(found: tuple[KernelChoice, ...] | Refusal | None, role: Role, path: str, mode: str) -> KernelChoice:
    """The best kernel; of those that may be wrong for some shapes only where there is no other."""
    if found is None or isinstance(found, Refusal):
        why = "no kernel does that" if found is None else found.reason
        raise ConvertError(
            f"{type(role.layer).__name__} cannot be quantized as its qconfig asks ({mode or 'static'}): {why}",
            module_path=path,
            remedy="set its qconfig to None to keep it float",
        )
    return next((choice for choice in found if not choice.probed), found[0])


def _float_weight(role: Role) -> FloatWeight:
    layer: Any = role.layer
    assert role.row is not None
    transposed, groups = role.row.name in TRANSPOSED, int(getattr(layer, "groups", 1))
    weight = layer.weight.detach().to("cpu", torch.float32)
    rows = output_rows(weight, groups) if transposed else weight.clone()
    bias = None if layer.bias is None else layer.bias.detach().to("cpu", torch.float32).clone()
    stride_product = prod(as_tuple(layer.stride, weight.dim() - 2)) if transposed else 1
    return FloatWeight(rows, bias, (), groups, transposed, stride_product)


def _recurrent(role: Role, path: str, qconfig: Any, mode: str, engine: str) -> nn.Module:
    assert role.row is not None
    call = Call(role.row, {}, None, None, frozenset(), role.layer)
    choice = _choice(NativeBackend(engine).kernels_for(call, mode) if _has(role, mode) else None, role, path, mode)
    recurrence = recurrence_of(role.layer)
    unit = Unit(path or role.row.name, role.row.name, "", (), kernel=choice, mode=mode)
    tensors = quantize_recurrent(unit, role.layer, recurrence, qconfig.weight())
    kind = RecurrentSteps if choice.convention.startswith("recurrent_steps") else RecurrentLayers
    return kind(recurrence, tensors, choice.engine)


def _table(role: Role, path: str, qconfig: Any, mode: str, engine: str) -> nn.Module:
    layer: Any = role.layer
    if not _has(role, mode) or layer.max_norm is not None or getattr(layer, "mode", "") == "max":
        return _unfit_table(role, path, mode)
    table = layer.weight.detach().to("cpu", torch.float32)
    frozen, bits = quantize_rows(table, qconfig.weight(), mode, path), 4 if mode == "weights4" else 8
    if isinstance(layer, nn.EmbeddingBag):
        mean, include_last = layer.mode == "mean", layer.include_last_offset
        return EmbeddingBag(*frozen, bits, layer.padding_idx, mean, include_last)
    return Embedding(*frozen, bits)


def _unfit_table(role: Role, path: str, mode: str) -> nn.Module:
    raise ConvertError(
        f"{type(role.layer).__name__} cannot be quantized as its qconfig asks ({mode or 'static'})",
        module_path=path,
        remedy="use float_qparams_weight_only_qconfig; mode='max' and max_norm have no kernel: set its qconfig to None",
    )
