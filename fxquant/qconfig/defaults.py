"""Ready-made QConfigs, under the names they have in torch.ao.quantization.

Those that ask for something no backend runs are accepted all the same: their operators stay float, and ``explain``
gives the reason.
"""

from __future__ import annotations

import torch

from fxquant.observers import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    NoopObserver,
    PlaceholderObserver,
    default_debug_observer,
    default_dynamic_quant_observer,
    default_float_qparams_observer,
    default_float_qparams_observer_4bit,
    default_observer,
    default_per_channel_weight_observer,
    default_placeholder_observer,
    default_reuse_input_observer,
    default_weight_observer,
    per_channel_weight_observer_range_neg_127_to_127,
    weight_observer_range_neg_127_to_127,
)
from fxquant.qconfig.qconfig import QConfig

_xnnpack_activation_observer = HistogramObserver.with_args(dtype=torch.int8, reduce_range=False, eps=2**-12)

default_qconfig = QConfig(activation=default_observer, weight=default_weight_observer)
"""Activations in 7 bits by minimum and maximum; one scale per weight."""

default_per_channel_qconfig = QConfig(activation=default_observer, weight=default_per_channel_weight_observer)
"""Activations in 7 bits by minimum and maximum; one scale per output channel of a weight."""

default_debug_qconfig = QConfig(activation=default_debug_observer, weight=default_weight_observer)
"""Keeps every activation, for looking at values; such a model cannot be converted."""

default_weight_only_qconfig = QConfig(activation=default_placeholder_observer, weight=default_weight_observer)
"""Weights only. No backend runs int8 weights on float activations: the operators stay float."""

default_activation_only_qconfig = QConfig(
    activation=MovingAverageMinMaxObserver.with_args(quant_min=0, quant_max=255), weight=default_placeholder_observer
)
"""Activations only: operators with weights stay float, the others become int8."""

default_reuse_input_qconfig = QConfig(activation=default_reuse_input_observer, weight=NoopObserver)
"""For operators that move values, such as reshape: the result has the range of the input."""

default_symmetric_qnnpack_qconfig = QConfig(
    activation=_xnnpack_activation_observer, weight=weight_observer_range_neg_127_to_127
)
"""As XNNPACK wants it: int8 activations, one symmetric scale per weight."""

default_per_channel_symmetric_qnnpack_qconfig = QConfig(
    activation=_xnnpack_activation_observer, weight=per_channel_weight_observer_range_neg_127_to_127
)
"""As XNNPACK wants it: int8 activations, one symmetric scale per output channel of a weight."""

default_quint8_weight_qconfig = QConfig(activation=HistogramObserver, weight=MinMaxObserver)
"""For PReLU: the weight is stored like an activation."""

float_qparams_weight_only_qconfig = QConfig(
    activation=default_placeholder_observer, weight=default_float_qparams_observer
)
"""For embeddings: the table in 8 bits, with a scale and a float zero point per row; the result is float."""

float_qparams_weight_only_qconfig_4bit = QConfig(
    activation=default_placeholder_observer, weight=default_float_qparams_observer_4bit
)
"""For embeddings: the table in 4 bits, with a scale and a float zero point per row; the result is float."""

default_dynamic_qconfig = QConfig(activation=default_dynamic_quant_observer, weight=default_weight_observer)
"""Activations quantized when they arrive; one int8 scale per weight."""

per_channel_dynamic_qconfig = QConfig(
    activation=default_dynamic_quant_observer, weight=default_per_channel_weight_observer
)
"""Activations quantized when they arrive; one int8 scale per output channel of a weight."""

float16_dynamic_qconfig = QConfig(
    activation=PlaceholderObserver.with_args(dtype=torch.float16, is_dynamic=True),
    weight=PlaceholderObserver.with_args(dtype=torch.float16),
)
"""Weights in half precision; activations stay float32."""
