"""Normalisation, dropout and identity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from fxquant.ops.opdef import Example, FloatOnly, Identity, OpDef

_DOCS = "https://docs.pytorch.org/docs/stable/generated/torch.nn.functional."

BATCH_NORM = OpDef(
    name="batch_norm",
    target=F.batch_norm,
    signature="input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5",
    modules=(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    weights=("running_mean", "running_var", "weight", "bias"),
    output=FloatOnly("batch norm that no convolution or linear absorbs runs in float"),
    examples=(Example(((2, 3, 6, 6),)), Example(((2, 3, 6),))),
    source=_DOCS + "batch_norm.html",
)

DROPOUT = OpDef(
    name="dropout",
    target=F.dropout,
    signature="input, p=0.5, training=True, inplace=False",
    functions=(F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout),
    modules=(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    output=Identity(),
    examples=(Example(((2, 3, 6, 6),), {"training": False}),),
    source=_DOCS + "dropout.html",
)

LAYER_NORM = OpDef(
    name="layer_norm",
    target=F.layer_norm,
    signature="input, normalized_shape, weight=None, bias=None, eps=1e-5",
    weights=("weight", "bias"),
    output=FloatOnly(),
    examples=(Example(((2, 4, 6),), {"normalized_shape": (6,)}),),
    source=_DOCS + "layer_norm.html",
)

GROUP_NORM = OpDef(
    name="group_norm",
    target=F.group_norm,
    signature="input, num_groups, weight=None, bias=None, eps=1e-5",
    weights=("weight", "bias"),
    output=FloatOnly(),
    examples=(Example(((2, 4, 6, 6),), {"num_groups": 2}),),
    source=_DOCS + "group_norm.html",
)

INSTANCE_NORM = OpDef(
    name="instance_norm",
    target=F.instance_norm,
    signature="input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, "
    "momentum=0.1, eps=1e-5",
    weights=("running_mean", "running_var", "weight", "bias"),
    output=FloatOnly(),
    examples=(Example(((2, 4, 6, 6),)),),
    source=_DOCS + "instance_norm.html",
)

NORMALIZE = OpDef(
    name="normalize",
    target=F.normalize,
    signature="input, p=2.0, dim=1, eps=1e-12, out=None",
    output=FloatOnly(),
    examples=(Example(((2, 4, 6),)),),
    source=_DOCS + "normalize.html",
)

EMBEDDING = OpDef(
    name="embedding",
    target=F.embedding,
    signature="input, weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False",
    functions=(torch.embedding,),
    weights=("weight",),
    output=FloatOnly("embeddings stay float by default"),
    source=_DOCS + "embedding.html",
)

ROWS = (BATCH_NORM, DROPOUT, LAYER_NORM, GROUP_NORM, INSTANCE_NORM, NORMALIZE, EMBEDDING)
