"""Fused attention as matrix products, each of which can run int8.

Before::

    %y = scaled_dot_product_attention(%q, %k, %v, attn_mask=%mask)

After::

    %t = transpose(%k, -2, -1);  %s = matmul(%q, %t);  %w = attention_softmax(%s, attn_mask=%mask, scale=0.125)
    %y = matmul(%w, %v)

Attention with dropout stays whole.
"""

from __future__ import annotations

import math

from torch import fx

from fxquant.passes.parts_writer import PartsWriter, shape_of


def decompose_attention(writer: PartsWriter) -> None:
    """Decompose one scaled_dot_product_attention."""
    bound = writer.bound
    if bound["dropout_p"] != 0.0:  # drops weights in eval mode too: kept as written
        return
    query, key, value = bound["query"], bound["key"], bound["value"]
    shape = shape_of(query)
    if bound["enable_gqa"]:
        key, value = (_repeat_heads(writer, item, shape) for item in (key, value))
    scale = 1.0 / math.sqrt(shape[-1]) if bound["scale"] is None else bound["scale"]
    scores = writer.add("matmul", input=query, other=writer.add("transpose", input=key, dim0=-2, dim1=-1))
    weights = writer.add(
        "attention_softmax", scores=scores, attn_mask=bound["attn_mask"], scale=scale, is_causal=bound["is_causal"]
    )
    writer.finish("matmul", input=weights, other=value)


def _repeat_heads(writer: PartsWriter, node: fx.Node, query: tuple[int, ...]) -> fx.Node:
    """Repeat every head for the group of query heads that shares it: [..., H, S, E] to [..., Hq, S, E]."""
    shape = shape_of(node)
    groups = query[-3] // shape[-3]
    if groups == 1:
        return node
    one = writer.add("unsqueeze", input=node, dim=-3)  # [..., H, 1, S, E]
    many = writer.add("expand", input=one, size=(*[-1] * (len(shape) - 2), groups, -1, -1))
    return writer.add("flatten", input=many, start_dim=-4, end_dim=-3)
