"""fxquant: an FX graph-mode automatic quantizer for PyTorch."""

from fxquant.api import convert_fx, convert_to_reference_fx, fuse_fx, prepare_fx, quantize
from fxquant.errors import FxquantError
from fxquant.inspect.explain import Explanation, explain
from fxquant.inspect.graph_diff import GraphDiff, graph_diff
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
    "Explanation",
    "FixedQParamsObserver",
    "FuseCustomConfig",
    "FxquantError",
    "GraphDiff",
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
    "explain",
    "fuse_fx",
    "get_default_qconfig",
    "get_default_qconfig_mapping",
    "graph_diff",
    "prepare_fx",
    "quantize",
]
