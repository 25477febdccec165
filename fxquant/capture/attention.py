"""``F.multi_head_attention_forward`` as the torch calls it is made of, so that its insides are captured.

Recorded whole it would be one float operator with all the projections of a transformer in it. This is a statement of
torch's function in the same calls, with two differences that change no number: feature sizes are Python integers, so
that slices of packed weights are constants, and no branch depends on a batch size or a sequence length.

Source: torch/nn/functional.py of torch 2.13, ``multi_head_attention_forward``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

from fxquant.capture.structures import unwrap

Linear = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class AttentionCall:
    """Arguments of ``F.multi_head_attention_forward``, with its names, order and defaults; proxies or tensors."""

    query: Any
    key: Any
    value: Any
    embed_dim_to_check: int
    num_heads: int
    in_proj_weight: Any
    in_proj_bias: Any
    bias_k: Any
    bias_v: Any
    add_zero_attn: bool
    dropout_p: float
    out_proj_weight: Any
    out_proj_bias: Any
    training: bool = True
    key_padding_mask: Any = None
    need_weights: bool = True
    attn_mask: Any = None
    use_separate_proj_weight: bool = False
    q_proj_weight: Any = None
    k_proj_weight: Any = None
    v_proj_weight: Any = None
    static_k: Any = None
    static_v: Any = None
    average_attn_weights: bool = True
    is_causal: bool = False

    @property
    def head_dim(self) -> int:
        """Features of one head."""
        return self.embed_dim_to_check // self.num_heads

    @property
    def dropout(self) -> float:
        """Probability of dropping a weight: 0 in eval mode."""
        return self.dropout_p if self.training else 0.0


@dataclass(frozen=True)
class _Heads:
    """Queries, keys and values by head, and masks in float.

    Attributes:
        q, k, v: [N x heads, length, head_dim] when weights are wanted, else [N, heads, length, head_dim].
        attn_mask: [1, L, S] when ``shared``, else [N x heads, L, S], or None. padding: [N, S] or None.
        shared: whether all batches and heads have one mask.
        is_causal: whether the causal hint takes the place of the mask.
        length, batch: sizes L and N, symbolic.
    """

    q: Any
    k: Any
    v: Any
    attn_mask: Any
    padding: Any
    shared: bool
    is_causal: bool
    length: Any
    batch: Any

    @cached_property
    def keys(self) -> Any:
        """The size S, symbolic, with the keys that were added; asked for where it is needed."""
        return self.k.size(-2)


def attend(call: AttentionCall, linear: Linear) -> tuple[Any, Any]:
    """Compute multi-head attention.

    Args:
        call: its arguments; query [L, N, E] or [L, E], masks as in ``F.multi_head_attention_forward``.
        linear: called for every projection with (input, weight, bias).

    Returns:
        Output [L, N, E] or [L, E], and the weights [N, L, S] (by head when they are not averaged) or None.

    Raises:
        AssertionError: torch's own, for ranks that do not fit.
    """
    F._mha_shape_check(  # type: ignore[attr-defined]
        *unwrap((call.query, call.key, call.value, call.key_padding_mask, call.attn_mask, call.num_heads))
    )
    batched = unwrap(call.query).dim() == 3
    if not batched:
        call = _with_batch(call)
    heads = _heads(call, linear)
    mask = _merged_mask(call, heads)
    if call.need_weights:
        output, weights = _with_weights(call, heads, mask)
    else:
        output, weights = _without_weights(call, heads, mask), None
    output = linear(output, call.out_proj_weight, call.out_proj_bias)
    output = output.view(heads.length, heads.batch, unwrap(call.out_proj_weight).shape[0])
    if batched:
        return output, weights
    return output.squeeze(1), None if weights is None else weights.squeeze(0)


def _with_batch(call: AttentionCall) -> AttentionCall:
    """A batch of one for unbatched inputs. As in torch, inputs that are one tensor are projected one by one then."""
    query, key, value = (given.unsqueeze(1) for given in (call.query, call.key, call.value))
    padding = None if call.key_padding_mask is None else call.key_padding_mask.unsqueeze(0)
    return replace(call, query=query, key=key, value=value, key_padding_mask=padding)


def _heads(call: AttentionCall, linear: Linear) -> _Heads:
    """Masks in canonical form, projections, added keys, and the split into heads."""
    attn_mask, padding, is_causal = _masks(call)
    shared = attn_mask is not None and unwrap(attn_mask).dim() == 2
    if shared:
        attn_mask = attn_mask.unsqueeze(0)
    length, batch = call.query.size(0), call.query.size(1)
    keys = length if call.key is call.query else call.key.size(0)
    q, k, v = _projections(call, linear)
    added = int(call.add_zero_attn)
    if call.bias_k is not None and call.bias_v is not None:
        k = torch.cat([k, call.bias_k.repeat(1, batch, 1)])
        v = torch.cat([v, call.bias_v.repeat(1, batch, 1)])
        keys = k.size(0)
        added += 1
    q = _by_head(call, q, length, batch)
    k = _by_head(call, k, keys, batch) if call.static_k is None else _given_heads(call, call.static_k, batch)
    v = _by_head(call, v, keys, batch) if call.static_v is None else _given_heads(call, call.static_v, batch)
    if call.add_zero_attn:
        rows = (batch * call.num_heads,) if call.need_weights else (batch, call.num_heads)
        zeros = torch.zeros((*rows, 1, call.head_dim), dtype=unwrap(k).dtype, device=unwrap(k).device)
        k, v = torch.cat([k, zeros], dim=-2), torch.cat([v, zeros], dim=-2)
    if added:
        attn_mask = None if attn_mask is None else F.pad(attn_mask, (0, added))
        padding = None if padding is None else F.pad(padding, (0, added))
    return _Heads(q, k, v, attn_mask, padding, shared, is_causal, length, batch)


def _masks(call: AttentionCall) -> tuple[Any, Any, bool]:
    """Both masks as float tensors to add, and whether the causal hint takes the place of the attention mask."""
    dtype = unwrap(call.query).dtype
    padding = F._canonical_mask(
        call.key_padding_mask, "key_padding_mask", F._none_or_dtype(call.attn_mask), "attn_mask", dtype
    )
    if call.is_causal and call.attn_mask is None:
        raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
    if call.is_causal and padding is None and not call.need_weights:
        return None, None, True
    attn_mask = F._canonical_mask(call.attn_mask, "attn_mask", None, "", dtype, False)
    return attn_mask, padding, False


def _projections(call: AttentionCall, linear: Linear) -> tuple[Any, Any, Any]:
    """Queries [L, N, E], keys and values [S, N, E]. One input for several of them is multiplied once."""
    size, weight, bias = call.embed_dim_to_check, call.in_proj_weight, call.in_proj_bias
    biases = (None, None, None)
    if call.use_separate_proj_weight:
        weights = (call.q_proj_weight, call.k_proj_weight, call.v_proj_weight)
        biases = biases if bias is None else bias.chunk(3)
    elif call.key is not call.value:
        weights, biases = weight.chunk(3), biases if bias is None else bias.chunk(3)
    elif call.query is call.key:
        q, k, v = linear(call.query, weight, bias).chunk(3, dim=-1)
        return q, k, v
    else:
        sizes = [size, 2 * size]
        weight_q, weight_kv = weight.split(sizes)
        bias_q, bias_kv = (None, None) if bias is None else bias.split(sizes)
        q = linear(call.query, weight_q, bias_q)
        k, v = linear(call.key, weight_kv, bias_kv).chunk(2, dim=-1)
        return q, k, v
    inputs = (call.query, call.key, call.value)
    q, k, v = (linear(*given) for given in zip(inputs, weights, biases, strict=True))
    return q, k, v


def _by_head(call: AttentionCall, projected: Any, length: Any, batch: Any) -> Any:
    """Split [S, N, E] into heads, S being ``length`` and N ``batch``."""
    if call.need_weights:
        return projected.reshape(length, batch * call.num_heads, call.head_dim).transpose(0, 1)
    return projected.reshape(length, batch, call.num_heads, call.head_dim).permute(1, 2, 0, 3)


def _given_heads(call: AttentionCall, static: Any, batch: Any) -> Any:
    """Static keys or values, [N x heads, S, head_dim], in the layout of the others."""
    return static if call.need_weights else static.view(batch, call.num_heads, static.size(1), call.head_dim)


def _merged_mask(call: AttentionCall, heads: _Heads) -> Any:
    """The sum of both masks: [1, L, S], or [batch x heads, 1 or L, S], or None."""
    if heads.padding is None:
        return heads.attn_mask
    padding = heads.padding.view(heads.batch, 1, 1, heads.keys).expand(-1, call.num_heads, -1, -1)
    padding = padding.reshape(heads.batch * call.num_heads, 1, heads.keys)
    return padding if heads.attn_mask is None else heads.attn_mask + padding


def _with_weights(call: AttentionCall, heads: _Heads, mask: Any) -> tuple[Any, Any]:
    """Attention in separate steps: [L x N, E], and its weights."""
    scaled = heads.q * math.sqrt(1.0 / call.head_dim)
    keys = heads.k.transpose(-2, -1)
    scores = torch.bmm(scaled, keys) if mask is None else torch.baddbmm(mask, scaled, keys)
    weights = F.softmax(scores, dim=-1)
    if call.dropout_p > 0.0:
        weights = F.dropout(weights, p=call.dropout_p, training=call.training)
    output = torch.bmm(weights, heads.v).transpose(0, 1)
    output = output.reshape(heads.length * heads.batch, call.embed_dim_to_check)
    weights = weights.view(heads.batch, call.num_heads, heads.length, heads.keys)
    return output, weights.mean(dim=1) if call.average_attn_weights else weights


def _without_weights(call: AttentionCall, heads: _Heads, mask: Any) -> Any:
    """Attention by ``F.scaled_dot_product_attention``: [N x L, E]."""
    if mask is not None:
        only_shared = heads.shared and heads.padding is None
        mask = mask.unsqueeze(0) if only_shared else mask.view(heads.batch, call.num_heads, -1, heads.keys)
    output = F.scaled_dot_product_attention(heads.q, heads.k, heads.v, mask, call.dropout, heads.is_causal)
    return output.permute(2, 0, 1, 3).reshape(heads.batch * heads.length, call.embed_dim_to_check)
