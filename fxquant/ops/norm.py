"""Normalisation, dropout and identity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from fxquant.ops.opdef import Example, FloatOnly, Identity, Kernel, OpDef, Requantize

_DOCS = "https://docs.pytorch.org/docs/stable/generated/torch.nn.functional."

# Measured on identical integers: one in fifty results of torch's layer, group and instance norm is a quantum off where
# the input spans three integers, and on channels-last images with few channels group and instance norm return garbage.
_NOT_RIGHT = "torch's int8 kernel is not right for every input"

BATCH_NORM = OpDef(
    name="batch_norm",
    target=F.batch_norm,
    signature="input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5",
    signatures={
        torch.batch_norm: "input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled",
    },
    functions=(torch.batch_norm,),
    modules=(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    weights=("running_mean", "running_var", "weight", "bias"),
    output=Requantize(),
    kernels={"native": Kernel("batch_norm", "quantized.batch_norm")},
    examples=(Example(((2, 3, 6, 6),)), Example(((2, 3, 6),))),
    source=_DOCS + "batch_norm.html",
)

_DROPOUTS_OF_TORCH = (torch.dropout, torch.feature_dropout, torch.alpha_dropout, torch.feature_alpha_dropout)

DROPOUT = OpDef(
    name="dropout",
    target=F.dropout,
    signature="input, p=0.5, training=True, inplace=False",
    signatures={
        **dict.fromkeys((F.alpha_dropout, F.feature_alpha_dropout), "input, p=0.5, training=False, inplace=False"),
        **dict.fromkeys(_DROPOUTS_OF_TORCH, "input, p, training"),
    },
    functions=(F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, *_DROPOUTS_OF_TORCH),
    modules=(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    renamed={"train": "training"},
    output=Identity(),
    examples=(Example(((2, 3, 6, 6),), {"training": False}),),
    source=_DOCS + "dropout.html",
)

LAYER_NORM = OpDef(
    name="layer_norm",
    target=F.layer_norm,
    signature="input, normalized_shape, weight=None, bias=None, eps=1e-5",
    signatures={torch.layer_norm: "input, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True"},
    functions=(torch.layer_norm,),
    weights=("weight", "bias"),
    output=FloatOnly(_NOT_RIGHT),
    examples=(Example(((2, 4, 6),), {"normalized_shape": (6,)}),),
    source=_DOCS + "layer_norm.html",
)

GROUP_NORM = OpDef(
    name="group_norm",
    target=F.group_norm,
    signature="input, num_groups, weight=None, bias=None, eps=1e-5",
    signatures={torch.group_norm: "input, num_groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True"},
    functions=(torch.group_norm,),
    weights=("weight", "bias"),
    output=FloatOnly(_NOT_RIGHT),
    contiguous=True,
    examples=(Example(((2, 4, 6, 6),), {"num_groups": 2}),),
    source=_DOCS + "group_norm.html",
)

INSTANCE_NORM = OpDef(
    name="instance_norm",
    target=F.instance_norm,
    signature="input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, "
    "momentum=0.1, eps=1e-5",
    signatures={
        torch.instance_norm: "input, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, "
        "cudnn_enabled",
    },
    functions=(torch.instance_norm,),
    weights=("running_mean", "running_var", "weight", "bias"),
    output=FloatOnly(_NOT_RIGHT),
    contiguous=True,
    examples=(Example(((2, 4, 6, 6),)),),
    source=_DOCS + "instance_norm.html",
)

RMS_NORM = OpDef(
    name="rms_norm",
    target=F.rms_norm,
    signature="input, normalized_shape, weight=None, eps=None",
    functions=(torch.rms_norm,),
    weights=("weight",),
    output=FloatOnly(),
    examples=(Example(((2, 4, 6),), {"normalized_shape": (6,)}),),
    source=_DOCS + "rms_norm.html",
)

LOCAL_RESPONSE_NORM = OpDef(
    name="local_response_norm",
    target=F.local_response_norm,
    signature="input, size, alpha=0.0001, beta=0.75, k=1.0",
    output=FloatOnly(),
    examples=(Example(((2, 4, 6, 6),), {"size": 3}),),
    source=_DOCS + "local_response_norm.html",
)

COSINE_SIMILARITY = OpDef(
    name="cosine_similarity",
    target=F.cosine_similarity,
    signature="x1, x2, dim=1, eps=1e-8",
    activations=("x1", "x2"),
    output=FloatOnly(),
    examples=(Example(((2, 4, 6), (2, 4, 6)), {"dim": -1}),),
    source=_DOCS + "cosine_similarity.html",
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
    kernels={
        "native.weights": Kernel("embedding", "quantized.embedding_bag_byte_rowwise_offsets"),
        "native.weights4": Kernel("embedding", "quantized.embedding_bag_4bit_rowwise_offsets"),
    },
    source=_DOCS + "embedding.html",
)

EMBEDDING_BAG = OpDef(
    name="embedding_bag",
    target=F.embedding_bag,
    signature="input, weight, offsets=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, mode='mean', "
    "sparse=False, per_sample_weights=None, include_last_offset=False, padding_idx=None",
    activations=("per_sample_weights",),
    weights=("weight",),
    output=FloatOnly("embeddings stay float by default"),
    kernels={
        "native.weights": Kernel("embedding_bag", "quantized.embedding_bag_byte_rowwise_offsets"),
        "native.weights4": Kernel("embedding_bag", "quantized.embedding_bag_4bit_rowwise_offsets"),
    },
    source=_DOCS + "embedding_bag.html",
)

ROWS = (
    BATCH_NORM,
    DROPOUT,
    LAYER_NORM,
    GROUP_NORM,
    INSTANCE_NORM,
    RMS_NORM,
    LOCAL_RESPONSE_NORM,
    NORMALIZE,
    COSINE_SIMILARITY,
    EMBEDDING,
    EMBEDDING_BAG,
)
