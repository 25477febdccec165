"""Embeddings on integer tables."""

from __future__ import annotations

from fxquant.backends.native.convention import Convention, Made, UnitView
from fxquant.backends.native.kernels.embedding import Embedding, EmbeddingBag
from fxquant.plan.backend import Call


def _refuse_table(call: Call) -> str:
    if not call.is_constant(call.bound["weight"]) or call.weight is None:
        return "its table is computed from activations"
    if call.bound["max_norm"] is not None:
        return "max_norm changes the table at every call"
    return "it takes the maximum of a bag, and kernels sum" if call.bound.get("mode") == "max" else ""


def _bits(view: UnitView) -> int:
    return 4 if view.unit.mode == "weights4" else 8


def _embedding(view: UnitView, relu: bool) -> Made:
    weight, scale, zero_point = (view.tensor(key) for key in ("weight", "weight_scale", "weight_zero_point"))
    assert weight is not None and scale is not None and zero_point is not None
    kernel = Embedding(weight, scale, zero_point, _bits(view))
    return Made((view.lowered(view.bound["input"]),), module=kernel)


def _embedding_bag(view: UnitView, relu: bool) -> Made:
    weight, scale, zero_point = (view.tensor(key) for key in ("weight", "weight_scale", "weight_zero_point"))
    assert weight is not None and scale is not None and zero_point is not None
    bound = view.bound
    padding = bound["padding_idx"]
    padding = padding if padding is None or padding >= 0 else padding + weight.shape[0]
    mean = bound["mode"] == "mean"
    kernel = EmbeddingBag(weight, scale, zero_point, _bits(view), padding, mean, bool(bound["include_last_offset"]))
    names = ("input", "offsets", "per_sample_weights")
    return Made(tuple(view.lowered(bound[name]) for name in names), module=kernel)


CONVENTIONS = {
    "embedding": Convention(_embedding, _refuse_table),
    "embedding_bag": Convention(_embedding_bag, _refuse_table),
}
