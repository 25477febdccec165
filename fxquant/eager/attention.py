"""Attention between stubs: int8 projections, and products of activations in float between them.

Before: ``attention: MultiheadAttention``, which reads its projections' weights itself. After ``prepare``::

    attention: Attention    # query, key, value and out_proj are linears; stubs around softmax and products
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.eager.stubs import DeQuantStub, QuantStub


class Attention(nn.Module):
    """What ``nn.MultiheadAttention`` computes in eval mode, with its projections as linears.

    Args:
        source: the module it stands for; parameters are shared with it.
    """

    bias_k: Tensor | None
    bias_v: Tensor | None

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads, self.batch_first = source.num_heads, source.batch_first
        self.add_zero_attn = source.add_zero_attn
        self.in_proj_bias, self._qkv_same_embed_dim = None, False  # transformer layers then call forward
        self.query, self.key, self.value = _projections(source)
        self.out_proj = nn.Linear(source.embed_dim, source.embed_dim, bias=source.out_proj.bias is not None)
        self.out_proj.weight, self.out_proj.bias = source.out_proj.weight, source.out_proj.bias
        self.bias_k, self.bias_v = source.bias_k, source.bias_v
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.eval()

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention``; ``is_causal`` is a hint there, and needs ``attn_mask`` as well.

        Args:
            query: [L, N, E], or [N, L, E] with batch_first, or [L, E]; uint8 or floating, like key and value.
        """
        is_batched, swaps = query.dim() == 3, query.dim() == 3 and not self.batch_first
        given = [item if is_batched else item.unsqueeze(0) for item in (query, key, value)]
        given = [item.transpose(0, 1) for item in given] if swaps else given
        layers = (self.query, self.key, self.value)
        q, k, v = (self.dequant(layer(item)) for layer, item in zip(layers, given, strict=True))
        k, v = self._extended(k, self.bias_k), self._extended(v, self.bias_v)
        q, k, v = (item.unflatten(-1, (self.heads, -1)).transpose(1, 2) for item in (q, k, v))
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        weights = self._masked(scores, key_padding_mask, attn_mask).softmax(-1)
        result = self.out_proj(self.quant((weights @ v).transpose(1, 2).flatten(2)))
        result = result.transpose(0, 1) if swaps else result if is_batched else result.squeeze(0)
        if not need_weights:
            return result, None
        shown = weights.mean(1) if average_attn_weights else weights
        return result, shown if is_batched else shown.squeeze(0)

    def _extended(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Keys or values [N, S, E] with what the module adds to them."""
        added = [] if bias is None else [bias.expand(len(x), 1, -1)]
        added += [torch.zeros_like(x[:, :1])] if self.add_zero_attn else []
        return torch.cat([x, *added], 1)

    def _masked(self, scores: Tensor, key_padding_mask: Tensor | None, attn_mask: Tensor | None) -> Tensor:
        """Scores [N, heads, L, S]; masks are True, or minus infinity, where nothing is to be seen."""
        extra = scores.shape[-1]
        if attn_mask is not None:
            mask = _additive(attn_mask, extra)
            scores = scores + (mask.reshape(-1, self.heads, *mask.shape[1:]) if mask.dim() == 3 else mask)
        if key_padding_mask is not None:
            mask = _additive(key_padding_mask, extra)
            scores = scores + mask.reshape(-1, 1, 1, extra)
        return scores


def _additive(mask: Tensor, length: int) -> Tensor:
    """A mask as numbers to add, over ``length`` keys."""
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, device=mask.device).masked_fill(mask, -math.inf)
    return F.pad(mask, (0, length - mask.shape[-1]))


def _projections(source: nn.MultiheadAttention) -> list[nn.Linear]:
    """Linears of query, key and value."""
    if source.in_proj_weight is not None:
        weights = source.in_proj_weight.detach().chunk(3)
    else:
        weights = tuple(
            weight.detach() for weight in (source.q_proj_weight, source.k_proj_weight, source.v_proj_weight)
        )
    biases = [None] * 3 if source.in_proj_bias is None else source.in_proj_bias.detach().chunk(3)
    made = []
    for weight, bias in zip(weights, biases, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        layer.weight = nn.Parameter(weight)
        layer.bias = None if bias is None else nn.Parameter(bias)
        made.append(layer)
    return made
