"""Configuration: QConfig, QConfigMapping, custom configs."""

from fxquant.qconfig.backend_config import BackendConfig
from fxquant.qconfig.backend_pattern_config import BackendPatternConfig, ObservationType
from fxquant.qconfig.custom import PrepareCustomConfig, StandaloneModuleConfigEntry
from fxquant.qconfig.custom_config import ConvertCustomConfig, FuseCustomConfig
from fxquant.qconfig.defaults import (
    default_activation_only_qconfig,
    default_debug_qconfig,
    default_dynamic_qconfig,
    default_per_channel_qconfig,
    default_per_channel_symmetric_qnnpack_qconfig,
    default_qconfig,
    default_quint8_weight_qconfig,
    default_reuse_input_qconfig,
    default_symmetric_qnnpack_qconfig,
    default_weight_only_qconfig,
    float16_dynamic_qconfig,
    float_qparams_weight_only_qconfig,
    float_qparams_weight_only_qconfig_4bit,
    per_channel_dynamic_qconfig,
)
from fxquant.qconfig.dtype_config import DTypeConfig, DTypeWithConstraints
from fxquant.qconfig.mapping import (
    QConfigMapping,
    as_mapping,
    get_default_dynamic_qconfig_mapping,
    get_default_qat_qconfig_dict,
    get_default_qat_qconfig_mapping,
    get_default_qconfig_dict,
    get_default_qconfig_mapping,
)
from fxquant.qconfig.qat_defaults import (
    default_dynamic_qat_qconfig,
    default_embedding_qat_qconfig,
    default_embedding_qat_qconfig_4bit,
    default_per_channel_symmetric_qnnpack_qat_qconfig,
    default_qat_qconfig,
    default_qat_qconfig_v2,
    default_symmetric_qnnpack_qat_qconfig,
    get_default_qat_qconfig,
    get_learnable_qat_qconfig,
)
from fxquant.qconfig.qconfig import QConfig, QConfigAny, get_default_qconfig, qconfig_equals
from fxquant.qconfig.quant_type import QuantType

__all__ = [
    "BackendConfig",
    "BackendPatternConfig",
    "ConvertCustomConfig",
    "DTypeConfig",
    "DTypeWithConstraints",
    "FuseCustomConfig",
    "ObservationType",
    "PrepareCustomConfig",
    "QConfig",
    "QConfigAny",
    "QConfigMapping",
    "QuantType",
    "StandaloneModuleConfigEntry",
    "as_mapping",
    "default_activation_only_qconfig",
    "default_debug_qconfig",
    "default_dynamic_qat_qconfig",
    "default_dynamic_qconfig",
    "default_embedding_qat_qconfig",
    "default_embedding_qat_qconfig_4bit",
    "default_per_channel_qconfig",
    "default_per_channel_symmetric_qnnpack_qat_qconfig",
    "default_per_channel_symmetric_qnnpack_qconfig",
    "default_qat_qconfig",
    "default_qat_qconfig_v2",
    "default_qconfig",
    "default_quint8_weight_qconfig",
    "default_reuse_input_qconfig",
    "default_symmetric_qnnpack_qat_qconfig",
    "default_symmetric_qnnpack_qconfig",
    "default_weight_only_qconfig",
    "float16_dynamic_qconfig",
    "float_qparams_weight_only_qconfig",
    "float_qparams_weight_only_qconfig_4bit",
    "get_default_dynamic_qconfig_mapping",
    "get_default_qat_qconfig",
    "get_default_qat_qconfig_dict",
    "get_default_qat_qconfig_mapping",
    "get_default_qconfig",
    "get_default_qconfig_dict",
    "get_default_qconfig_mapping",
    "get_learnable_qat_qconfig",
    "per_channel_dynamic_qconfig",
    "qconfig_equals",
]
