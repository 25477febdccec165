"""Ready-made QConfigs for quantization-aware training, under the names they have in torch.ao.quantization."""

from __future__ import annotations

import torch

from fxquant.errors import NotYetError
from fxquant.observers import (
    FusedMovingAvgObsFakeQuantize,
    LearnableFakeQuantize,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    NoopObserver,
    default_dynamic_fake_quant,
    default_embedding_fake_quant,
    default_embedding_fake_quant_4bit,
    default_fake_quant,
    default_fused_act_fake_quant,
    default_fused_wt_fake_quant,
    default_weight_fake_quant,
    fused_per_channel_wt_fake_quant_range_neg_127_to_127,
    fused_wt_fake_quant_range_neg_127_to_127,
)
from fxquant.qconfig.qconfig import QConfig, check_engine

_signed_activation = FusedMovingAvgObsFakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver,
    quant_min=-128,
    quant_max=127,
    dtype=torch.int8,
    reduce_range=False,
    eps=2**-12,
)

default_qat_qconfig = QConfig(activation=default_fake_quant, weight=default_weight_fake_quant)
"""Activations scaled for 7 bits; one scale per weight."""

default_qat_qconfig_v2 = QConfig(activation=default_fused_act_fake_quant, weight=default_fused_wt_fake_quant)
"""Activations in 8 bits; one scale per weight."""

default_dynamic_qat_qconfig = QConfig(activation=default_dynamic_fake_quant, weight=default_weight_fake_quant)
"""Activations quantized when they arrive; one int8 scale per weight."""

default_embedding_qat_qconfig = QConfig(
    activation=NoopObserver.with_args(dtype=torch.float32), weight=default_embedding_fake_quant
)
"""For embeddings: the table in 8 bits, with a scale and a float zero point per row; the result is float."""

default_embedding_qat_qconfig_4bit = QConfig(
    activation=NoopObserver.with_args(dtype=torch.float32), weight=default_embedding_fake_quant_4bit
)
"""For embeddings: the table in 4 bits, with a scale and a float zero point per row; the result is float."""

default_symmetric_qnnpack_qat_qconfig = QConfig(
    activation=_signed_activation, weight=fused_wt_fake_quant_range_neg_127_to_127
)
"""As XNNPACK wants it: int8 activations, one symmetric scale per weight."""

default_per_channel_symmetric_qnnpack_qat_qconfig = QConfig(
    activation=_signed_activation, weight=fused_per_channel_wt_fake_quant_range_neg_127_to_127
)
"""As XNNPACK wants it: int8 activations, one symmetric scale per output channel of a weight."""

_WEIGHT = {
    "observer": MovingAveragePerChannelMinMaxObserver,
    "dtype": torch.int8,
    "qscheme": torch.per_channel_symmetric,
    "averaging_constant": 1,
}


def get_default_qat_qconfig(backend: str = "x86", version: int = 1) -> QConfig:
    """The recommended configuration for quantization-aware training.

    Activations: uint8 0..255, affine, averaged minimum and maximum. Weights: int8 -127..127, symmetric, per output
    channel, the range of the weight as it is. The limits of kernels are those of ``get_default_qconfig``.

    Args:
        backend: x86, fbgemm, onednn or qnnpack.
        version: 0 or 1, kept for compatibility of signatures; both are the same.

    Raises:
        ConfigError: unknown backend. NotYetError: another version.
    """
    check_engine(backend)
    if version not in (0, 1):
        raise NotYetError(f"get_default_qat_qconfig has no version {version}", remedy="use version=1")
    return QConfig(
        activation=default_fused_act_fake_quant,
        weight=FusedMovingAvgObsFakeQuantize.with_args(**_WEIGHT, quant_min=-127, quant_max=127),
    )


def get_learnable_qat_qconfig(weight_bits: int = 8) -> QConfig:
    """A configuration whose step sizes are learned with the weights (LSQ), for few bits above all.

    Args:
        weight_bits: 2 to 8; integers of fewer bits run in the int8 kernels.

    Raises:
        NotYetError: another number of bits.

    Source: Esser et al. 2020, https://arxiv.org/abs/1902.08153.
    """
    if not 2 <= weight_bits <= 8:
        raise NotYetError(f"weights of {weight_bits} bits have no kernel", remedy="use 2 to 8 bits")
    largest = 2 ** (weight_bits - 1) - 1
    return QConfig(
        activation=LearnableFakeQuantize.with_args(observer=MovingAverageMinMaxObserver, quant_min=0, quant_max=255),
        weight=LearnableFakeQuantize.with_args(**_WEIGHT, quant_min=-largest, quant_max=largest),
    )
