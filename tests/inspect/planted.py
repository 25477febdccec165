"""A small network with a layer that quantizes badly, planted without changing what the network computes in float."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fxquant
from fxquant import QConfig, QConfigMapping

PLANTED = "blocks.2"


class Network(nn.Module):
    """Five convolutions and a linear; the first channel of every one is read by nobody else than the next."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1) for i in range(5)))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = torch.relu(block(x))
        return self.head(x.mean((2, 3)))


def network(seed: int = 0) -> Network:
    """The network, sound, with activations of about unit size."""
    torch.manual_seed(seed)
    model = Network().eval()
    with torch.no_grad():
        for block in model.blocks:
            nn.init.kaiming_normal_(block.weight)
    return model


def batches(count: int = 4, seed: int = 1) -> list[Tensor]:
    """Inputs, [8, 3, 12, 12] each."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(8, 3, 12, 12, generator=generator) for _ in range(count)]


def with_outlier_channel(model: Network, factor: float = 300.0) -> Network:
    """Make one channel of ``PLANTED`` huge, and the next layer undo it: in float nothing changes."""
    with torch.no_grad():
        model.blocks[2].weight[0] *= factor
        model.blocks[2].bias[0] *= factor
        model.blocks[3].weight[:, 0] /= factor
    return model


def wrong_scale() -> QConfigMapping:
    """A configuration that gives ``PLANTED`` an output range far too small."""
    mapping = fxquant.get_default_qconfig_mapping("x86")
    observer = fxquant.FixedQParamsObserver.with_args(scale=0.001, zero_point=0, quant_min=0, quant_max=255)
    return mapping.set_module_name(
        PLANTED, QConfig(activation=observer, weight=fxquant.default_per_channel_weight_observer)
    )
