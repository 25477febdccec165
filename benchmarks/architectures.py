"""Architectures of torchvision with random weights, and inputs of the size that each one is made for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from networks import import_torchvision_models, natural_images, settle_batch_norms
from torch import Tensor, nn

FRAMES, FRAME_SIZE, SHIFT = 16, 112, 2


def natural_videos(count: int, seed: int) -> Tensor:
    """A window that moves over a picture by `SHIFT` pixels a frame: [count, 3, 16, 112, 112] float32."""
    pictures = natural_images(count, seed, FRAME_SIZE + SHIFT * FRAMES)
    starts = (SHIFT * frame for frame in range(FRAMES))
    return torch.stack([pictures[..., i : i + FRAME_SIZE, i : i + FRAME_SIZE] for i in starts], dim=2)


def large_images(count: int, seed: int) -> Tensor:
    """Images of Inception's size: [count, 3, 299, 299] float32."""
    return natural_images(count, seed, 299)


@dataclass(frozen=True)
class Architecture:
    """One torchvision network.

    Attributes:
        path: its builder below `torchvision.models`.
        make_inputs: called with a count and a seed.
        keywords: arguments of the builder.
        transformer: whether attention does much of its work, which lowers the share asked to be int8.
        inputs_share: what part of the usual number of inputs it is judged with; less than 1 for the slowest.
    """

    path: str
    make_inputs: Callable[[int, int], Tensor] = natural_images
    keywords: Mapping[str, Any] = field(default_factory=dict)
    transformer: bool = False
    inputs_share: float = 1.0

    def build(self, seed: int) -> nn.Module:
        """The network in eval mode, with random weights that `seed` decides and realistic norms."""
        builder = attrgetter(self.path)(import_torchvision_models())
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model: nn.Module = builder(weights=None, **self.keywords)
            _wake(model)
            return settle_batch_norms(model, seed, self.make_inputs)


@torch.no_grad()
def _wake(model: nn.Module) -> None:
    """Replace initial values with which a network computes next to nothing, as no trained one has them.

    Heads of zeros (ViT), layer scales of 1e-6 (ConvNeXt), and weights whose signal dies out layer by layer where no
    norm restores it (AlexNet).
    """
    has_norm = any("Norm" in type(module).__name__ for module in model.modules())
    for module in model.modules():
        if not isinstance(module, (nn.Linear, nn.Conv2d)):
            scale = getattr(module, "layer_scale", None)
            if isinstance(scale, nn.Parameter):
                scale.uniform_(0.1, 1.0)
        elif not has_norm:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif not module.weight.any():
            nn.init.normal_(module.weight, std=module.in_features**-0.5)


_SEPARATE = {"weights_backbone": None}
_INITIALIZED = {"init_weights": True}
ZOO: dict[str, Architecture] = {
    **{
        name: Architecture(name)
        for name in (
            "alexnet", "vgg11_bn", "resnet18", "resnet50", "resnext50_32x4d", "mobilenet_v2", "mobilenet_v3_large",
            "mnasnet1_0", "shufflenet_v2_x1_0", "squeezenet1_1", "densenet121", "efficientnet_b0", "regnet_x_400mf",
            "regnet_y_400mf", "convnext_tiny",
        )
    },
    "googlenet": Architecture("googlenet", keywords=_INITIALIZED),
    "inception_v3": Architecture("inception_v3", large_images, _INITIALIZED),
    "vit_b_32": Architecture("vit_b_32", transformer=True),
    "swin_t": Architecture("swin_t", transformer=True),
    "deeplabv3_resnet50": Architecture("segmentation.deeplabv3_resnet50", keywords=_SEPARATE, inputs_share=0.5),
    "lraspp_mobilenet_v3_large": Architecture("segmentation.lraspp_mobilenet_v3_large", keywords=_SEPARATE),
    "r3d_18": Architecture("video.r3d_18", natural_videos, inputs_share=0.5),
}  # fmt: skip
"""Every network by name."""
