"""A clip (relu, relu6, hardtanh, clamp) after an operator that requantizes costs nothing.

Before::

    %y = conv2d(%x, ...);  %z = relu6(%y);  quantize(%z)

After::

    %z = conv2d_relu6(%x, ...)          # one unit, its range observed after the clip

The clip stays in the graph until lowering, which drops it when the final range lies inside the clip.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.fusion.rule import WEIGHTED, Accept, Match, Reject, Rule, RuleExample

REQUANTIZING = WEIGHTED | {"add", "sub", "mul", "matmul", "batch_norm", "layer_norm", "group_norm", "instance_norm"}
CLIPS = frozenset(("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max"))


def _check(match: Match) -> Accept | Reject:
    clip = match.tail.anchor
    if "clip" in match.head.roles:
        return Reject("the unit has a clip already")
    if match.head_has_other_users():
        return Reject(f"{match.head.last.name} is also read by others, who need it unclipped")
    row = match.row(clip)
    assert row.clip is not None
    low, high = row.clip(match.arguments(clip))
    if low is None and high is None:
        return Reject("the bounds are tensors")
    if (low is not None and low > 0) or (high is not None and high < 0):
        return Reject("the clip excludes zero, which every range of integers contains")
    return Accept()


class _ReluTwice(nn.Module):
    """A convolution read with and without relu."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return F.relu(y) * y


class _Residual(nn.Module):
    """Addition, then relu in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        y += x
        return y.relu_()


class _Clamp(nn.Module):
    """clamp with given bounds after a linear."""

    def __init__(self, low: float | Tensor, high: float) -> None:
        super().__init__()
        self.linear, self.low, self.high = nn.Linear(3, 4), low, high

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_tensor(self.low):
            return torch.clamp(self.linear(x), min=self.low)
        return torch.clamp(self.linear(x), self.low, max=self.high)


RULE = Rule(
    name="absorb_clip",
    heads=REQUANTIZING,
    tails=CLIPS,
    absorbs="tail",
    role="clip",
    check=_check,
    accepts=(
        RuleExample("conv relu", lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (2, 3, 8, 8)),
        RuleExample("conv relu6", lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6()).eval(), (2, 3, 8, 8)),
        RuleExample("conv hardtanh", lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.Hardtanh()).eval(), (2, 3, 8)),
        RuleExample(
            "transposed conv relu",
            lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 2, 2), nn.ReLU()).eval(),
            (2, 3, 4, 4),
        ),
        RuleExample("residual", lambda: _Residual().eval(), (2, 3, 8, 8)),
        RuleExample("batch norm relu", lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()).eval(), (2, 3, 8, 8)),
        RuleExample("linear clamp", lambda: _Clamp(-0.5, 0.5).eval(), (2, 3)),
    ),
    rejects=(
        RuleExample("two readers", lambda: _ReluTwice().eval(), (2, 3, 8, 8)),
        RuleExample("excludes zero", lambda: _Clamp(0.25, 0.5).eval(), (2, 3)),
        RuleExample("tensor bounds", lambda: _Clamp(torch.zeros(4), 0.5).eval(), (2, 3)),
    ),
)
