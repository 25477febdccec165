"""Packing anew the kernels of a model that has run."""

from __future__ import annotations

from torch import nn

from fxquant.backends.native.kernels.base import Kernel


def pack_again(model: nn.Module) -> None:
    """Pack every kernel of ``model`` in place, as if the model had never run.

    torch's onednn kernels prepare themselves for the shape of their first input and prepare again, each time, for every
    other: a model that was tried on a batch of 8 takes up to one and a half times as long for single inputs.

    Source: ``PackedConvWeightsOnednn::apply_impl`` in aten/src/ATen/native/quantized/cpu/qconv.cpp,
    ``cache_initialized_flag``.
    """
    for module in model.modules():
        if isinstance(module, Kernel):
            module.pack()
