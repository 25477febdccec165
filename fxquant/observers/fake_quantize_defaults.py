"""Ready-made fake-quantize modules, under the names they have in torch.ao.quantization.

Those for weights keep no memory: their range is that of the weight as it is, which is what conversion takes.
"""

from __future__ import annotations

import torch

from fxquant.observers.defaults import (
    default_fixed_qparams_range_0to1_observer,
    default_fixed_qparams_range_neg1to1_observer,
)
from fxquant.observers.fake_quantize import FakeQuantize, FixedQParamsFakeQuantize, FusedMovingAvgObsFakeQuantize
from fxquant.observers.histogram import HistogramObserver
from fxquant.observers.moving_average import MovingAverageMinMaxObserver
from fxquant.observers.per_channel import MovingAveragePerChannelMinMaxObserver

_BYTE = {"quant_min": 0, "quant_max": 255, "dtype": torch.uint8}
_SIGNED = {"quant_min": -128, "quant_max": 127, "dtype": torch.int8, "averaging_constant": 1}
_SIGNED_127 = {**_SIGNED, "quant_min": -127, "eps": 2**-12}
_PER_TENSOR = {"observer": MovingAverageMinMaxObserver, "qscheme": torch.per_tensor_symmetric}
_PER_CHANNEL = {"observer": MovingAveragePerChannelMinMaxObserver, "qscheme": torch.per_channel_symmetric}
_ROWS = {
    "observer": MovingAveragePerChannelMinMaxObserver,
    "qscheme": torch.per_channel_affine_float_qparams,
    "ch_axis": 0,
    "averaging_constant": 1,
}

default_fake_quant = FakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver, **_BYTE, qscheme=torch.per_tensor_affine, reduce_range=True
)
"""Activations, scaled for 7 bits."""

default_weight_fake_quant = FakeQuantize.with_args(**_PER_TENSOR, **_SIGNED, reduce_range=False)
"""Weights, one scale."""

default_per_channel_weight_fake_quant = FakeQuantize.with_args(**_PER_CHANNEL, **_SIGNED, reduce_range=False, ch_axis=0)
"""Weights, one scale per output channel."""

default_dynamic_fake_quant = FakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver, **_BYTE, is_dynamic=True, averaging_constant=1
)
"""Activations whose range is taken anew from each input."""

default_histogram_fake_quant = FakeQuantize.with_args(
    observer=HistogramObserver, **_BYTE, qscheme=torch.per_tensor_affine, reduce_range=True
)
"""Activations, the range of least squared error over a histogram, scaled for 7 bits."""

default_fused_act_fake_quant = FusedMovingAvgObsFakeQuantize.with_args(observer=MovingAverageMinMaxObserver, **_BYTE)
"""Activations, 8 bits."""

default_fused_wt_fake_quant = FusedMovingAvgObsFakeQuantize.with_args(**_PER_TENSOR, **_SIGNED)
"""Weights, one scale."""

default_fused_per_channel_wt_fake_quant = FusedMovingAvgObsFakeQuantize.with_args(**_PER_CHANNEL, **_SIGNED)
"""Weights, one scale per output channel."""

fused_wt_fake_quant_range_neg_127_to_127 = FusedMovingAvgObsFakeQuantize.with_args(**_PER_TENSOR, **_SIGNED_127)
"""Weights, one scale, without -128, as XNNPACK wants them."""

fused_per_channel_wt_fake_quant_range_neg_127_to_127 = FusedMovingAvgObsFakeQuantize.with_args(
    **_PER_CHANNEL, **_SIGNED_127
)
"""Weights, one scale per output channel, without -128, as XNNPACK wants them."""

default_embedding_fake_quant = FakeQuantize.with_args(**_ROWS, **_BYTE)
"""Embedding tables, one scale and float zero point per row."""

default_embedding_fake_quant_4bit = FakeQuantize.with_args(**_ROWS, dtype=torch.uint8, quant_min=0, quant_max=15)
"""Embedding tables in 4 bits, one scale and float zero point per row."""

default_fixed_qparams_range_0to1_fake_quant = FixedQParamsFakeQuantize.with_args(
    observer=default_fixed_qparams_range_0to1_observer
)
"""Results in 0..1, such as sigmoid's."""

default_fixed_qparams_range_neg1to1_fake_quant = FixedQParamsFakeQuantize.with_args(
    observer=default_fixed_qparams_range_neg1to1_observer
)
"""Results in -1..1, such as tanh's."""

default_affine_fixed_qparams_fake_quant = default_fixed_qparams_range_0to1_fake_quant
"""Older name of ``default_fixed_qparams_range_0to1_fake_quant``."""

default_symmetric_fixed_qparams_fake_quant = default_fixed_qparams_range_neg1to1_fake_quant
"""Older name of ``default_fixed_qparams_range_neg1to1_fake_quant``."""
