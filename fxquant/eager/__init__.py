"""The eager style: modules fused, bordered and swapped by hand, nothing traced. Names are torch.ao.quantization's."""

from fxquant.backends.native.kernels.functional import QFunctional
from fxquant.eager.convert import convert
from fxquant.eager.functional import FloatFunctional
from fxquant.eager.fuse_modules import FusedReLU, fuse_modules
from fxquant.eager.prepare import prepare, propagate_qconfig_
from fxquant.eager.quantize import quantize
from fxquant.eager.quantize_dynamic import quantize_dynamic
from fxquant.eager.stubs import DeQuantStub, QuantStub, QuantWrapper, add_quant_dequant
from fxquant.eager.train import fuse_modules_qat, prepare_qat
from fxquant.observers import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    PerChannelMinMaxObserver,
    default_observer,
    default_per_channel_weight_observer,
    default_weight_observer,
)
from fxquant.observers.fake_quantize import disable_fake_quant, disable_observer, enable_fake_quant, enable_observer
from fxquant.passes.normalize import freeze_bn_stats, update_bn_stats
from fxquant.qconfig import (
    QConfig,
    default_dynamic_qconfig,
    default_per_channel_qconfig,
    default_qconfig,
    float16_dynamic_qconfig,
    float_qparams_weight_only_qconfig,
    float_qparams_weight_only_qconfig_4bit,
    get_default_qat_qconfig,
    get_default_qconfig,
    per_channel_dynamic_qconfig,
)

__all__ = [
    "DeQuantStub",
    "FloatFunctional",
    "FusedReLU",
    "HistogramObserver",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "PerChannelMinMaxObserver",
    "QConfig",
    "QFunctional",
    "QuantStub",
    "QuantWrapper",
    "add_quant_dequant",
    "convert",
    "default_dynamic_qconfig",
    "default_observer",
    "default_per_channel_qconfig",
    "default_per_channel_weight_observer",
    "default_qconfig",
    "default_weight_observer",
    "disable_fake_quant",
    "disable_observer",
    "enable_fake_quant",
    "enable_observer",
    "float16_dynamic_qconfig",
    "float_qparams_weight_only_qconfig",
    "float_qparams_weight_only_qconfig_4bit",
    "freeze_bn_stats",
    "fuse_modules",
    "fuse_modules_qat",
    "get_default_qat_qconfig",
    "get_default_qconfig",
    "per_channel_dynamic_qconfig",
    "prepare",
    "prepare_qat",
    "propagate_qconfig_",
    "quantize",
    "quantize_dynamic",
    "update_bn_stats",
]
