"""Weights of recurrent layers and cells, each matrix on its own.

Before: ``lstm.weight_ih_l0 float32 [4 x hidden, in]``. After: int8 with ``weight_ih_l0_scale``, or float16.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fxquant.ir.quant_plan import Unit
from fxquant.numerics.recurrent import Recurrence
from fxquant.passes.fold_weights import FloatWeight
from fxquant.passes.quantize_weights import quantize_unit


def quantize_recurrent(unit: Unit, module: nn.Module, recurrence: Recurrence, observer: nn.Module) -> dict[str, Tensor]:
    """Quantize the weights of a recurrent layer.

    Args:
        unit: of mode ``dynamic`` or ``float16``; its kernel states the weights' limit.
        module: the user's.
        recurrence: what it is.
        observer: a fresh weight observer; each matrix gets a copy.

    Returns:
        Tensors by name: weights, their scales, and float32 biases as they are.

    Raises:
        ConvertError: the weight observer is not symmetric int8.
    """
    tensors: dict[str, Tensor] = {}
    largest = torch.finfo(torch.float16).max
    for name in recurrence.weights:
        weight = getattr(module, name).detach().to("cpu", torch.float32)
        if unit.mode == "float16":
            tensors[name] = weight.clamp(-largest, largest).to(torch.float16)
        else:
            frozen = quantize_unit(unit, FloatWeight(weight, None, (name,)), copy.deepcopy(observer))
            tensors[name], tensors[f"{name}_scale"] = frozen.weight, frozen.scale
        bias = getattr(module, name.replace("weight", "bias"), None)
        if bias is not None:
            tensors[name.replace("weight", "bias")] = bias.detach().to("cpu", torch.float32).clone()
    return tensors
