"""A network of modules and functionals, and short ways to state backend configs for it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import BackendConfig, BackendPatternConfig, DTypeConfig, ObservationType, get_default_qconfig_mapping
from fxquant.ir.quant_plan import QuantPlan

SHARE = ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT
OWN = ObservationType.OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT
NONE = ObservationType.INPUT_OUTPUT_NOT_OBSERVED
INT8 = DTypeConfig(torch.quint8, torch.quint8, torch.qint8, torch.float)
X = torch.randn(4, 3, 12, 12)


class Net(nn.Module):
    """Modules and functionals of the same operators."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu, self.other = (
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 1),
        )
        self.weight = nn.Parameter(torch.randn(8, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(x)))
        y = F.relu(F.conv2d(x, self.weight))
        z = torch.cat([self.other(x), y], 1)
        return F.leaky_relu(F.max_pool2d(z, 2) + 1, 0.2)


def pattern_config(pattern: Any, observation: Any = OWN, dtypes: Any = INT8) -> BackendPatternConfig:
    return BackendPatternConfig(pattern).set_observation_type(observation).add_dtype_config(dtypes)


def plan_of(config: Any, mapping: Any = None, net: nn.Module | None = None, x: Any = X) -> QuantPlan:
    mapping = mapping or get_default_qconfig_mapping()
    return fxquant.prepare_fx((net or Net()).eval(), mapping, (x,), backend_config=config).plan


def config_of(*patterns: BackendPatternConfig) -> BackendConfig:
    return BackendConfig("mine").set_backend_pattern_configs(patterns)
