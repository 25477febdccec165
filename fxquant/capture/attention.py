"""``F.multi_head_attention_forward`` as the torch calls it is made of, so that its insides are captured.

Recorded whole it would be one float operator with all the projections of a transformer in it. This is a statement of
torch's function with two differences that change no number: feature sizes are Python integers, so that slices of packed
weights are constants, and dimensions are split and merged without asking for a batch size or a sequence length.

Source: torch/nn/functional.py of torch 2.13, ``multi_head_attention_forward``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
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
        q, k, v: [N x heads, L or S, head_dim] when weights are wanted, else [N, heads, L or S, head_dim].
        attn_mask: [1, L, S] when ``shared``, else [N x heads, L, S], or None. padding: [N, S] or None.
        shared: whether all batches and heads have one mask.
        is_causal: whether the causal hint takes the place of the mask.
    """

    q: Any
    k: Any
    v: Any
    attn_mask: Any
    padding: Any
    shared: bool
    is_causal: bool


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
    added = int(call.add_zero_attn) + int(call.bias_k is not None and call.bias_v is not None)
    if added or call.static_k is not None or call.static_v is not None or not _is_packed(call):
        q, k, v = _by_heads(call, *_projections(call, linear))
    else:
        q, k, v = _packed_heads(call, linear(call.query, call.in_proj_weight, call.in_proj_bias))
    if added:
        attn_mask = None if attn_mask is None else F.pad(attn_mask, (0, added))
        padding = None if padding is None else F.pad(padding, (0, added))
    return _Heads(q, k, v, attn_mask, padding, shared, is_causal)


def _is_packed(call: AttentionCall) -> bool:
    """Whether queries, keys and values are projections of one input by one weight."""
    return not call.use_separate_proj_weight and call.key is call.value and call.query is call.key


def _packed_heads(call: AttentionCall, projected: Any) -> tuple[Any, Any, Any]:
    """Queries, keys and values by head, of all three in one: [L, N, 3 E]."""
    heads = projected.unflatten(-1, (3, call.num_heads, call.head_dim)).permute(2, 1, 3, 0, 4)
    heads = heads.flatten(1, 2) if call.need_weights else heads
    return heads[0], heads[1], heads[2]


def _by_heads(call: AttentionCall, q: Any, k: Any, v: Any) -> tuple[Any, Any, Any]:
    """Queries [L, N, E], keys and values [S, N, E] by head, with the keys and values that are added."""
    if call.bias_k is not None and call.bias_v is not None:
        batch = call.query.size(1)
        k = torch.cat([k, call.bias_k.repeat(1, batch, 1)])
        v = torch.cat([v, call.bias_v.repeat(1, batch, 1)])
    q = _by_head(call, q)
    k = _by_head(call, k) if call.static_k is None else _given_heads(call, call.static_k)
    v = _by_head(call, v) if call.static_v is None else _given_heads(call, call.static_v)
    if call.add_zero_attn:
        batch = call.query.size(1)
        rows = (batch * call.num_heads,) if call.need_weights else (batch, call.num_heads)
        zeros = torch.zeros((*rows, 1, call.head_dim), dtype=unwrap(k).dtype, device=unwrap(k).device)
        k, v = torch.cat([k, zeros], dim=-2), torch.cat([v, zeros], dim=-2)
    return q, k, v


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


def _by_head(call: AttentionCall, projected: Any) -> Any:
    """Split [S, N, E] into heads."""
    heads = projected.unflatten(-1, (call.num_heads, call.head_dim))
    return heads.flatten(1, 2).transpose(0, 1) if call.need_weights else heads.permute(1, 2, 0, 3)


def _given_heads(call: AttentionCall, static: Any) -> Any:
    """Static keys or values, [N x heads, S, head_dim], in the layout of the others."""
    return static if call.need_weights else static.unflatten(0, (-1, call.num_heads))


def _merged_mask(call: AttentionCall, heads: _Heads) -> Any:
    """The sum of both masks: [1, L, S], or [batch x heads, 1 or L, S], or None."""
    if heads.padding is None:
        return heads.attn_mask
    padding = heads.padding.unsqueeze(1).expand(-1, call.num_heads, -1).flatten(0, 1).unsqueeze(1)
    return padding if heads.attn_mask is None else heads.attn_mask + padding


def _with_weights(call: AttentionCall, heads: _Heads, mask: Any) -> tuple[Any, Any]:
    """Attention in separate steps: [L, N, E], and its weights."""
    scaled = heads.q * math.sqrt(1.0 / call.head_dim)
    keys = heads.k.transpose(-2, -1)
    scores = torch.bmm(scaled, keys) if mask is None else torch.baddbmm(mask, scaled, keys)
    weights: Any = F.softmax(scores, dim=-1)
    if call.dropout_p > 0.0:
        weights = F.dropout(weights, p=call.dropout_p, training=call.training)
    output: Any = torch.bmm(weights, heads.v).transpose(0, 1)
    output = output.unflatten(1, (-1, call.num_heads)).flatten(2)
    weights = weights.unflatten(0, (-1, call.num_heads))
    return output, weights.mean(dim=1) if call.average_attn_weights else weights


def _without_weights(call: AttentionCall, heads: _Heads, mask: Any) -> Any:
    """Attention by ``F.scaled_dot_product_attention``: [L, N, E]."""
    if mask is not None:
        only_shared = heads.shared and heads.padding is None
        mask = mask.unsqueeze(0) if only_shared else mask.unflatten(0, (-1, call.num_heads))
    output = F.scaled_dot_product_attention(heads.q, heads.k, heads.v, mask, call.dropout, heads.is_causal)
    return output.permute(2, 0, 1, 3).flatten(2).contiguous()  # as torch has it, for the same rounding
