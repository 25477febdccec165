"""Ready-made observers, under the names they have in torch.ao.quantization."""

from __future__ import annotations

import torch

from fxquant.observers.fixed import FixedQParamsObserver
from fxquant.observers.histogram import HistogramObserver
from fxquant.observers.min_max import MinMaxObserver
from fxquant.observers.passive import RecordingObserver, ReuseInputObserver
from fxquant.observers.per_channel import PerChannelMinMaxObserver
from fxquant.observers.placeholder import PlaceholderObserver

default_observer = MinMaxObserver.with_args(quant_min=0, quant_max=127)
"""Activations, 7 bits: no int16 accumulator overflows, whatever the weights."""

default_histogram_observer = HistogramObserver.with_args(quant_min=0, quant_max=127)
"""Activations, 7 bits, the range of least squared error."""

default_weight_observer = MinMaxObserver.with_args(dtype=torch.int8, qscheme=torch.per_tensor_symmetric)
"""Weights, one scale."""

weight_observer_range_neg_127_to_127 = default_weight_observer.with_args(quant_min=-127, quant_max=127, eps=2**-12)
"""Weights, one scale, without -128, as XNNPACK wants them."""

default_per_channel_weight_observer = PerChannelMinMaxObserver.with_args(
    dtype=torch.int8, qscheme=torch.per_channel_symmetric
)
"""Weights, one scale per output channel."""

per_channel_weight_observer_range_neg_127_to_127 = default_per_channel_weight_observer.with_args(
    quant_min=-127, quant_max=127, eps=2**-12
)
"""Weights, one scale per output channel, without -128, as XNNPACK wants them."""

default_float_qparams_observer = PerChannelMinMaxObserver.with_args(
    dtype=torch.uint8, qscheme=torch.per_channel_affine_float_qparams, ch_axis=0
)
"""Embedding tables, one scale and float zero point per row."""

default_float_qparams_observer_4bit = default_float_qparams_observer.with_args(quant_min=0, quant_max=15)
"""Embedding tables in 4 bits, one scale and float zero point per row."""

default_fixed_qparams_range_0to1_observer = FixedQParamsObserver.with_args(
    scale=1.0 / 256.0, zero_point=0, dtype=torch.uint8, quant_min=0, quant_max=255
)
"""Outputs in 0..1, such as sigmoid's. Source: the output parameters that quantized sigmoid kernels use."""

default_fixed_qparams_range_neg1to1_observer = FixedQParamsObserver.with_args(
    scale=2.0 / 256.0, zero_point=128, dtype=torch.uint8, quant_min=0, quant_max=255
)
"""Outputs in -1..1, such as tanh's. Source: the output parameters that quantized tanh kernels use."""

default_affine_fixed_qparams_observer = default_fixed_qparams_range_0to1_observer
"""Older name of ``default_fixed_qparams_range_0to1_observer``."""

default_symmetric_fixed_qparams_observer = default_fixed_qparams_range_neg1to1_observer
"""Older name of ``default_fixed_qparams_range_neg1to1_observer``."""

default_placeholder_observer = PlaceholderObserver
"""No quantization, or to float16."""

default_dynamic_quant_observer = PlaceholderObserver.with_args(
    dtype=torch.uint8, quant_min=0, quant_max=255, is_dynamic=True
)
"""Activations whose range is taken anew from each input."""

default_debug_observer = RecordingObserver
"""Keeps every tensor, for looking at values."""

default_reuse_input_observer = ReuseInputObserver
"""For operators whose result has their input's range, such as reshape."""
