"""timm's networks with random weights, a small one of each family."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from networks import import_torchvision_models
from torch import nn
from trace_subject import Subject, images


def _built(name: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import_torchvision_models()
        made: nn.Module = importlib.import_module("timm").create_model(
            name, pretrained=False, num_classes=10, **options
        )
        return made

    return build


def _subject(name: str, size: int = 64, step: int = 0, **options: Any) -> Subject:
    """At the second size only the batch is larger where ``step`` is 0: of networks for one size of images."""
    return Subject(name, "timm", _built(name, options), images(size, step), (3, 1 if step else 0))


CONVOLUTIONAL = (
    "bat_resnext26ts", "botnet26t_256", "coatnet_pico_rw_224", "cs3darknet_s", "cspresnet50", "darknet53", "dla34",
    "dpn48b", "eca_nfnet_l0", "edgenext_xx_small", "efficientnet_b0", "efficientvit_b0", "ese_vovnet19b_dw",
    "fastvit_t8", "fbnetc_100", "gernet_s", "ghostnet_050", "halonet26t", "hardcorenas_a", "hgnet_tiny",
    "hrnet_w18_small", "inception_next_atto", "inception_v4", "lambda_resnet26t", "lcnet_050", "mambaout_femto",
    "mixnet_s", "mnasnet_small", "mobilenetv3_small_050", "mobilenetv4_conv_small", "mobileone_s0", "nf_resnet26",
    "poolformer_s12", "rdnet_tiny", "regnetx_002", "regnety_002", "repghostnet_050", "repvgg_a0", "repvit_m0_9",
    "res2net50_14w_8s", "resnest14d", "resnet18", "resnetv2_50", "rexnet_100", "selecsls42b", "seresnet18",
    "skresnet18", "starnet_s1", "convnext_atto", "convmixer_768_32", "semnasnet_050", "test_byobnet",
    "tf_efficientnet_lite0", "tinynet_e", "tresnet_m", "vgg11", "xception41",
)  # fmt: skip
"""Networks that take images of any size."""
_ONE_SIZE = {
    "botnet26t_256": (256, 0),
    "coatnet_pico_rw_224": (224, 0),
    "halonet26t": (256, 0),
    "lambda_resnet26t": (256, 0),
    "bat_resnext26ts": (256, 0),
}

FOR_ONE_SIZE: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": {"depth": 2, "embed_dim": 48, "num_heads": 4, "img_size": 64},
    "cait_xxs24_224": {"depth": 2, "img_size": 64},
    "coat_tiny": {"img_size": 64},
    "convit_tiny": {"depth": 3, "local_up_to_layer": 2, "img_size": 64},
    "crossvit_tiny_240": {"img_size": 240},
    "davit_tiny": {},
    "deit_tiny_patch16_224": {"depth": 2, "img_size": 64},
    "efficientformer_l1": {},
    "efficientformerv2_s0": {},
    "efficientvit_m0": {},
    "eva02_tiny_patch14_224": {"depth": 2, "img_size": 56},
    "focalnet_tiny_srf": {},
    "gcvit_xxtiny": {"img_size": 224},
    "hiera_tiny_224": {},
    "levit_128s": {},
    "maxvit_rmlp_pico_rw_256": {},
    "mixer_s32_224": {},
    "mobilevit_xxs": {},
    "mobilevitv2_050": {},
    "mvitv2_tiny": {},
    "nest_tiny": {},
    "nextvit_small": {},
    "pit_ti_224": {},
    "pvt_v2_b0": {},
    "samvit_base_patch16": {"depth": 2, "embed_dim": 48, "num_heads": 4, "img_size": 64},
    "sequencer2d_s": {},
    "shvit_s1": {},
    "swiftformer_xs": {},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 4},
    "swinv2_cr_tiny_ns_224": {"img_size": 64, "window_size": 4},
    "swinv2_tiny_window8_256": {"img_size": 64, "window_size": 4},
    "tiny_vit_5m_224": {},
    "tnt_s_legacy_patch16_224": {"depth": 2},
    "twins_pcpvt_small": {},
    "visformer_tiny": {},
    "vit_relpos_small_patch16_224": {"depth": 2, "img_size": 64},
    "vit_tiny_patch16_224": {"depth": 2, "img_size": 64},
    "vitamin_small_224": {},
    "volo_d1_224": {},
    "xcit_nano_12_p16_224": {"depth": 2},
}
"""Transformers and their like, most of them for one size of images; options make them small."""


def _size(name: str, options: dict[str, Any]) -> int:
    if "img_size" in options:
        return int(options["img_size"])
    return 256 if "256" in name else 224


SUBJECTS = (
    *(_subject(name, *_ONE_SIZE.get(name, (96, 32))) for name in CONVOLUTIONAL),
    *(_subject(name, _size(name, options), 0, **options) for name, options in FOR_ONE_SIZE.items()),
)
