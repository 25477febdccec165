"""fxquant: an FX graph-mode automatic quantizer for PyTorch."""

from fxquant.api import convert_fx, convert_to_reference_fx, fuse_fx, prepare_fx, quantize
from fxquant.errors import FxquantError
from fxquant.observers import (
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
)
from fxquant.qconfig import (
    ConvertCustomConfig,
    FuseCustomConfig,
    PrepareCustomConfig,
    QConfig,
    QConfigMapping,
    get_default_qconfig,
    get_default_qconfig_mapping,
)

__all__ = [
    "ConvertCustomConfig",
    "FixedQParamsObserver",
    "FuseCustomConfig",
    "FxquantError",
    "HistogramObserver",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "PerChannelMinMaxObserver",
    "PlaceholderObserver",
    "PrepareCustomConfig",
    "QConfig",
    "QConfigMapping",
    "convert_fx",
    "convert_to_reference_fx",
    "fuse_fx",
    "get_default_qconfig",
    "get_default_qconfig_mapping",
    "prepare_fx",
    "quantize",
]
