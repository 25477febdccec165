"""Attention: the fused product, and the part between its two matrix products.

``decompose_operators`` rewrites the fused operators into matrix products before planning, so that those can run int8.
"""

from __future__ import annotations

import math
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.ops.opdef import Example, FloatOnly, OpDef

_DOCS = "https://docs.pytorch.org/docs/stable/generated/torch."
_FUSED = "the fused kernel computes in float"


def attention_softmax(
    scores: Tensor, attn_mask: Tensor | None = None, *, scale: float = 1.0, is_causal: bool = False
) -> Tensor:
    """Return attention weights: the softmax of scaled and masked scores.

    Args:
        scores: [..., L, S] float, products of queries and keys.
        attn_mask: broadcastable to ``scores``; bool, True where attention is allowed, or float, added to the scores.
        scale: what the scores are multiplied by first.
        is_causal: allow position i to attend to positions up to i only; needs ``attn_mask`` None.

    Returns:
        [..., L, S] in 0..1. Every row sums to 1, but rows in which nothing is allowed are 0, not NaN.

    Source:
        ``_scaled_dot_product_attention_math`` in aten/src/ATen/native/transformers/attention.cpp
    """
    scaled = scores * scale
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is None:
        return torch.softmax(scaled, dim=-1)
    hides = attn_mask.dtype == torch.bool
    masked = scaled.masked_fill(attn_mask.logical_not(), -math.inf) if hides else scaled + attn_mask
    nothing_allowed = (masked == -math.inf).all(dim=-1, keepdim=True)
    return torch.softmax(masked, dim=-1).masked_fill(nothing_allowed, 0.0)


def _attention_macs(key: tuple[int, ...], output: tuple[int, ...]) -> int:
    """Two products per output row: with S keys of E features, and with S values (key: [..., S, E])."""
    return prod(output[:-1]) * key[-2] * (key[-1] + output[-1])


_QUERIES, _KEYS = (2, 4, 5, 8), (2, 4, 6, 8)

SCALED_DOT_PRODUCT_ATTENTION = OpDef(
    name="scaled_dot_product_attention",
    target=F.scaled_dot_product_attention,
    signature="query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False",
    activations=("query", "key", "value"),
    output=FloatOnly(_FUSED),
    macs=_attention_macs,
    examples=(
        Example((_QUERIES, _KEYS, _KEYS)),
        Example((_QUERIES, _KEYS, _KEYS), {"is_causal": True, "scale": 0.5}),
        Example((_QUERIES, (2, 2, 6, 8), (2, 2, 6, 8)), {"enable_gqa": True}),
    ),
    source=_DOCS + "nn.functional.scaled_dot_product_attention.html",
)

BADDBMM = OpDef(
    name="baddbmm",
    target=torch.baddbmm,
    signature="input, batch1, batch2, *, beta=1, alpha=1",
    methods=("baddbmm", "baddbmm_"),
    activations=("input", "batch1", "batch2"),
    output=FloatOnly(_FUSED),
    macs=lambda batch2, output: prod(output) * batch2[-2],
    examples=(
        Example(((2, 5, 4), (2, 5, 8), (2, 8, 4))),
        Example(((2, 5, 4), (2, 5, 8), (2, 8, 4)), {"beta": 0.5, "alpha": 2}),
    ),
    source=_DOCS + "baddbmm.html",
)

ATTENTION_SOFTMAX = OpDef(
    name="attention_softmax",
    target=attention_softmax,
    signature="scores, attn_mask=None, *, scale=1.0, is_causal=False",
    activations=("scores",),
    output=FloatOnly(),
    source=_DOCS + "nn.functional.scaled_dot_product_attention.html",
)

ROWS = (SCALED_DOT_PRODUCT_ATTENTION, BADDBMM, ATTENTION_SOFTMAX)
