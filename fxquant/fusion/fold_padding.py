"""Constant zero padding before a convolution becomes the convolution's own.

Before::

    %p = pad(%x, (0, 1, 0, 1));  %y = conv2d(%p, weight, stride=2, padding=0)

After::

    %y = conv2d(%x, weight, stride=2, padding=...)      # one unit

Symmetric amounts add to the convolution's padding; the rest becomes zeros at the kernel's edges when the
kernel is packed, which is exact.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant.fusion.rule import CONVOLUTIONS, Accept, Match, Reject, Rule, RuleExample, spatial_rank, value_of
from fxquant.numerics.conv_geometry import fold_pads, split_pads


def _check(match: Match) -> Accept | Reject:
    pad, conv = match.arguments(match.head.anchor), match.arguments(match.tail.anchor)
    if match.head_has_other_users():
        return Reject("the padded value is also read by others")
    if conv["input"] is not match.head.last:
        return Reject("the padding feeds the weight")
    if pad["mode"] != "constant" or (pad["value"] or 0) != 0:
        return Reject(f"padding with {pad['mode']} {pad['value'] or ''}".rstrip() + " is not zero padding")
    amounts, meta = pad["pad"], value_of(match.tail.anchor)
    if any(isinstance(amount, fx.Node) for amount in amounts) or any(amount < 0 for amount in amounts):
        return Reject("the amounts of padding are not constants, or negative")
    rank = spatial_rank(match.row(match.tail.anchor).name)
    if len(amounts) > 2 * rank or meta is None:
        return Reject("channels or batch are padded too")
    weight = value_of(conv["weight"])
    if weight is None:
        return Reject("the weight is not known")
    total = fold_pads(split_pads(conv, weight.shape), amounts)
    if total.grown_kernel(conv["dilation"]) is None:
        return Reject("asymmetric padding does not line up with the dilation")
    return Accept()


class _Padded(nn.Module):
    """F.pad, then a convolution."""

    def __init__(
        self, amounts: tuple[int, ...], mode: str = "constant", twice: bool = False, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, dilation=dilation)
        self.amounts, self.mode, self.twice = amounts, mode, twice

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, self.amounts, mode=self.mode)
        y: Tensor = self.conv(padded)
        return y + padded.mean() if self.twice else y


RULE = Rule(
    name="fold_padding",
    heads=frozenset({"pad"}),
    tails=CONVOLUTIONS,
    absorbs="head",
    role="pad",
    check=_check,
    accepts=(
        RuleExample("symmetric", lambda: _Padded((1, 1, 1, 1)).eval(), (2, 3, 8, 8)),
        RuleExample("asymmetric", lambda: _Padded((0, 1, 0, 1)).eval(), (2, 3, 8, 8)),
        RuleExample(
            "module", lambda: nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3, padding=1)).eval(), (2, 3, 8, 8)
        ),
    ),
    rejects=(
        RuleExample("reflect", lambda: _Padded((1, 1, 1, 1), mode="reflect").eval(), (2, 3, 8, 8)),
        RuleExample("two readers", lambda: _Padded((1, 1, 1, 1), twice=True).eval(), (2, 3, 8, 8)),
        RuleExample("off the dilation", lambda: _Padded((0, 1, 0, 1), dilation=2).eval(), (2, 3, 9, 9)),
    ),
)
