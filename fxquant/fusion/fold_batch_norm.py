"""Batch norm after a convolution, ordinary or transposed, or a linear becomes part of its weight and bias.

Before::

    %y = conv2d(%x, weight, bias);  %z = batch_norm(%y)

After (at freeze; until then the batch norm stays a module)::

    %z = conv2d(%x, weight·γ·rsqrt(σ²+ε), (bias-μ)·γ·rsqrt(σ²+ε)+β)

Source: https://arxiv.org/abs/1712.05877, section 3.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant.fusion.rule import WEIGHTED, Accept, Match, Reject, Rule, RuleExample, value_of


def _check(match: Match) -> Accept | Reject:
    norm, anchor = match.tail.anchor, match.head.anchor
    if match.head.roles.keys() & {"batch_norm", "clip"}:
        return Reject("something stands between the weight and the batch norm")
    if match.head_has_other_users():
        return Reject(f"{match.head.last.name} is also read by others, who need it without the batch norm")
    weight = match.arguments(anchor)["weight"]
    if not (isinstance(weight, fx.Node) and weight.name in match.constants):
        return Reject("the weight is computed from activations")
    if uses_batch_statistics(match, norm):
        return Reject("the batch norm normalises by the batch at hand, not by running statistics")
    meta = value_of(anchor)
    if match.row(anchor).name == "linear" and (meta is None or len(meta.shape) != 2):
        where = "unknown: pass example_inputs" if meta is None else "elsewhere"
        return Reject(f"the batch norm is over dimension 1, and the features of the linear's output are {where}")
    return Accept()


def uses_batch_statistics(match: Match, norm: fx.Node) -> bool:
    """Whether a batch norm, module or functional, normalises by the batch at hand."""
    if norm.op == "call_module":
        module = match.modules[str(norm.target)]
        return bool(module.training) or getattr(module, "running_mean", None) is None
    bound = match.arguments(norm)
    return bool(bound["training"]) or bound["running_mean"] is None


class _Functional(nn.Module):
    """conv and batch norm as functionals."""

    def __init__(self, training: bool) -> None:
        super().__init__()
        self.weight, self.norm, self.flag = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.BatchNorm2d(4), training

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm
        return F.batch_norm(F.conv2d(x, self.weight), n.running_mean, n.running_var, n.weight, n.bias, self.flag)


class _TwoReaders(nn.Module):
    """The convolution is read by the batch norm and by an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        z: Tensor = self.norm(y)
        return y + z


def _sequential(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules).eval()


RULE = Rule(
    name="fold_batch_norm",
    heads=WEIGHTED,
    tails=frozenset({"batch_norm"}),
    absorbs="tail",
    role="batch_norm",
    check=_check,
    accepts=(
        RuleExample("conv1d", lambda: _sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (2, 3, 8)),
        RuleExample("conv2d", lambda: _sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (2, 3, 8, 8)),
        RuleExample("conv3d", lambda: _sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4)), (2, 3, 5, 5, 5)),
        RuleExample(
            "transposed conv",
            lambda: _sequential(nn.ConvTranspose2d(4, 6, 3, 2, groups=2), nn.BatchNorm2d(6)),
            (2, 4, 5, 5),
        ),
        RuleExample("linear", lambda: _sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), (5, 3)),
        RuleExample(
            "not affine", lambda: _sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), (2, 3, 8, 8)
        ),
        RuleExample("functionals", lambda: _Functional(training=False).eval(), (2, 3, 8, 8)),
    ),
    rejects=(
        RuleExample("two readers", lambda: _TwoReaders().eval(), (2, 3, 8, 8)),
        RuleExample("batch statistics", lambda: _Functional(training=True).eval(), (2, 3, 8, 8)),
        RuleExample(
            "no running statistics",
            lambda: _sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
            (2, 3, 8, 8),
        ),
        RuleExample("features last", lambda: _sequential(nn.Linear(3, 4), nn.BatchNorm1d(5)), (2, 5, 3)),
    ),
)
