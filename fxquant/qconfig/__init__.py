"""Configuration: QConfig, QConfigMapping, custom configs."""

from fxquant.qconfig.custom import ConvertCustomConfig, FuseCustomConfig, PrepareCustomConfig
from fxquant.qconfig.mapping import QConfigMapping, as_mapping, get_default_qconfig_mapping
from fxquant.qconfig.qconfig import QConfig, get_default_qconfig

__all__ = [
    "ConvertCustomConfig",
    "FuseCustomConfig",
    "PrepareCustomConfig",
    "QConfig",
    "QConfigMapping",
    "as_mapping",
    "get_default_qconfig",
    "get_default_qconfig_mapping",
]
