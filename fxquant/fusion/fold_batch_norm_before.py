"""Batch norm before a convolution without padding, or before a linear, becomes part of its weight and bias.

Before::

    %y = batch_norm(%x);  %z = conv2d(%y, weight, bias)

After (at freeze; until then the batch norm stays a module)::

    %z = conv2d(%x, weight·f, bias + Σ weight·(β-μ·f))      # f = γ·rsqrt(σ²+ε), per input channel

A padded convolution reads zeros at its borders, which the batch norm does not shift: there it would not be exact.

Source: https://arxiv.org/abs/1712.05877, section 3.2, with the two linear maps in the other order.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant.fusion.fold_batch_norm import uses_batch_statistics
from fxquant.fusion.rule import CONVOLUTIONS, Accept, Match, Reject, Rule, RuleExample, value_of
from fxquant.numerics.conv_geometry import split_pads


def _check(match: Match) -> Accept | Reject:
    norm, anchor = match.head.anchor, match.tail.anchor
    bound = match.arguments(anchor)
    if match.head_has_other_users():
        return Reject(f"{match.head.last.name} is also read by others, who need the batch norm's result")
    if bound["input"] is not match.head.last:
        return Reject("the batch norm feeds the weight")
    weight, meta = bound["weight"], value_of(bound["weight"])
    if not (isinstance(weight, fx.Node) and weight.name in match.constants):
        return Reject("the weight is computed from activations")
    if uses_batch_statistics(match, norm):
        return Reject("the batch norm normalises by the batch at hand, not by running statistics")
    if match.row(anchor).name == "linear":
        given = value_of(match.head.last)
        if given is None or len(given.shape) != 2:
            where = "unknown: pass example_inputs" if given is None else "elsewhere"
            return Reject(f"the batch norm is over dimension 1, and the features that the linear reads are {where}")
        return Accept()
    if isinstance(bound["padding"], fx.Node) or meta is None:
        return Reject("the padding or the weight of the convolution is not known")
    if any(split_pads(bound, meta.shape).symmetric):
        return Reject("the convolution pads with zeros, which the batch norm does not shift")
    return Accept()


class _Functional(nn.Module):
    """Batch norm and convolution, the batch norm's result read once or twice."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.norm, self.conv, self.twice = nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2), twice

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm
        y = F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias)
        z: Tensor = self.conv(y)
        return z + y.mean() if self.twice else z


def _sequential(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules).eval()


RULE = Rule(
    name="fold_batch_norm_before",
    heads=frozenset({"batch_norm"}),
    tails=CONVOLUTIONS | {"linear"},
    absorbs="head",
    role="batch_norm_before",
    check=_check,
    accepts=(
        RuleExample("conv1d", lambda: _sequential(nn.BatchNorm1d(3), nn.Conv1d(3, 4, 3, bias=False)), (2, 3, 8)),
        RuleExample("conv2d", lambda: _sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, stride=2)), (2, 3, 8, 8)),
        RuleExample("conv3d", lambda: _sequential(nn.BatchNorm3d(3), nn.Conv3d(3, 4, 1)), (2, 3, 5, 5, 5)),
        RuleExample("linear", lambda: _sequential(nn.BatchNorm1d(3), nn.Linear(3, 4)), (5, 3)),
        RuleExample("not affine", lambda: _sequential(nn.BatchNorm1d(3, affine=False), nn.Linear(3, 4)), (5, 3)),
        RuleExample("functional, groups", lambda: _Functional(twice=False).eval(), (2, 4, 8, 8)),
        RuleExample(
            "batch norm on both sides",
            lambda: _sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
            (2, 3, 8, 8),
        ),
    ),
    rejects=(
        RuleExample("padding", lambda: _sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)), (2, 3, 8, 8)),
        RuleExample("same", lambda: _sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding="same")), (2, 3, 8, 8)),
        RuleExample("two readers", lambda: _Functional(twice=True).eval(), (2, 4, 8, 8)),
        RuleExample("features last", lambda: _sequential(nn.BatchNorm1d(5), nn.Linear(3, 4)), (2, 5, 3)),
        RuleExample(
            "no running statistics",
            lambda: _sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Conv2d(3, 4, 3)),
            (2, 3, 8, 8),
        ),
    ),
)
