"""Observers: modules that watch tensors during calibration and answer with a scale and a zero point."""

from fxquant.observers.base import ObserverBase, RangeObserver
from fxquant.observers.defaults import (
    default_affine_fixed_qparams_observer,
    default_debug_observer,
    default_dynamic_quant_observer,
    default_fixed_qparams_range_0to1_observer,
    default_fixed_qparams_range_neg1to1_observer,
    default_float_qparams_observer,
    default_float_qparams_observer_4bit,
    default_histogram_observer,
    default_observer,
    default_per_channel_weight_observer,
    default_placeholder_observer,
    default_reuse_input_observer,
    default_symmetric_fixed_qparams_observer,
    default_weight_observer,
    per_channel_weight_observer_range_neg_127_to_127,
    weight_observer_range_neg_127_to_127,
)
from fxquant.observers.factory import ObserverFactory
from fxquant.observers.fixed import FixedQParamsObserver
from fxquant.observers.histogram import HistogramObserver
from fxquant.observers.min_max import MinMaxObserver
from fxquant.observers.moving_average import MovingAverageMinMaxObserver
from fxquant.observers.passive import NoopObserver, RecordingObserver, ReuseInputObserver
from fxquant.observers.per_channel import MovingAveragePerChannelMinMaxObserver, PerChannelMinMaxObserver
from fxquant.observers.placeholder import PlaceholderObserver
from fxquant.observers.state import get_observer_state_dict, load_observer_state_dict

__all__ = [
    "FixedQParamsObserver",
    "HistogramObserver",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "NoopObserver",
    "ObserverBase",
    "ObserverFactory",
    "PerChannelMinMaxObserver",
    "PlaceholderObserver",
    "RangeObserver",
    "RecordingObserver",
    "ReuseInputObserver",
    "default_affine_fixed_qparams_observer",
    "default_debug_observer",
    "default_dynamic_quant_observer",
    "default_fixed_qparams_range_0to1_observer",
    "default_fixed_qparams_range_neg1to1_observer",
    "default_float_qparams_observer",
    "default_float_qparams_observer_4bit",
    "default_histogram_observer",
    "default_observer",
    "default_per_channel_weight_observer",
    "default_placeholder_observer",
    "default_reuse_input_observer",
    "default_symmetric_fixed_qparams_observer",
    "default_weight_observer",
    "get_observer_state_dict",
    "load_observer_state_dict",
    "per_channel_weight_observer_range_neg_127_to_127",
    "weight_observer_range_neg_127_to_127",
]
