"""Operations of random networks that move, select, join and pool numbers."""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F
from random_operation import Operation, image, joins, method, one_of, plain, same_shape
from torch import Tensor


def _dims(drawn: random.Random, value: Tensor) -> dict[str, Any]:
    rest = list(range(1, value.dim()))
    drawn.shuffle(rest)
    return {"dims": (0, *rest)}


def _sequence(first: Tensor, value: Tensor) -> bool:
    return value.dim() == 3 and value.shape[0] == 2


def _assigned(x: Tensor, index: Any, value: Any) -> Tensor:
    x[index] = value
    return x


def _halves(x: Tensor) -> Tensor:
    first, second = torch.chunk(x, 2, 1)
    return torch.cat([second, first], 1)


def _unpooled(x: Tensor) -> Tensor:
    values, places = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(values, places, 2, output_size=x.shape[-2:])


def _unshuffled(x: Tensor) -> Tensor:
    if x.shape[0] == 0:
        raise ValueError("torch gives an empty batch back as it is, in its old shape")
    return F.pixel_unshuffle(x, 2)


def _fresh(x: Tensor, y: Tensor) -> Tensor:
    both = x.new_zeros((x.shape[0], 2, *x.shape[1:]))
    both[:, 0] = x
    both[:, 1] = y
    return both.flatten(1, 2)


_VIEWS = (
    plain("slice", lambda x: x[:, :2], weight=0.7),
    plain("stride_slice", lambda x: x[..., ::2], weight=0.7),
    plain("select", lambda x: x[:, -1], weight=0.3),
    method("permute", settings=_dims, weight=0.7),
    plain("transpose", lambda x: x.transpose(-1, -2), weight=0.5),
    plain("mT", lambda x: x.mT, weight=0.3),
    plain("movedim", lambda x: torch.movedim(x, 1, -1), weight=0.3),
    plain("flatten", lambda x: torch.flatten(x, 1), weight=0.3),
    plain("reshape", lambda x: x.reshape(x.size(0), x.size(1), -1), image, weight=0.3),
    plain("view", lambda x: x.view(x.size(0), x.size(1), -1), image, weight=0.3),
    plain("unflatten", lambda x: x.unflatten(-1, (-1, 2)), weight=0.3),
    plain("unsqueeze_squeeze", lambda x: x.unsqueeze(1).squeeze(1), weight=0.5),
    plain("expand_mean", lambda x: x.mean((2, 3), keepdim=True).expand_as(x), image, weight=0.3),
    plain("diagonal", lambda x: x.diagonal(0, -2, -1), weight=0.2),
    plain("windows", lambda x: x.unfold(-1, 2, 1).flatten(-2), weight=0.2),
    plain("clone", torch.clone, weight=0.2),
    plain("contiguous", lambda x: x.contiguous(), weight=0.3),
    plain("to", lambda x: x.to(x.dtype).float(), weight=0.2),
)

_PARTS = (
    plain("chunk_swap", _halves, image),
    plain("split_second", lambda x: torch.split(x, [1, x.shape[1] - 1], dim=1)[1], image),
    plain("tensor_split", lambda x: torch.cat(torch.tensor_split(x, 2, dim=-1)[::-1], -1), weight=0.5),
    plain("unbind_stack", lambda x: torch.stack(x.unbind(1)[::-1], 1), image, weight=0.5),
    plain("cat", lambda x, y: torch.cat([x, y], 1), joins, arity=2, weight=3.0),
    plain("cat_three", lambda x, y, z: torch.cat((x, y, z), dim=1), joins, arity=3),
    plain("cat_ones", lambda x: torch.cat([torch.ones_like(x), x], -1), weight=0.3),
    plain("hstack", lambda x, y: torch.hstack((x, y)), joins, arity=2, weight=0.5),
    plain("stack_flatten", lambda x, y: torch.stack((x, y), 2).flatten(1, 2), same_shape, arity=2),
    plain("fresh", _fresh, same_shape, arity=2, weight=0.5),
)

_CHOSEN = (
    plain("index_list", lambda x: x[:, [0, -1, 0]], weight=0.5),
    plain("index_select", lambda x: x.index_select(-1, torch.tensor([1, 0, 0])), weight=0.5),
    plain("gather", lambda x: x.gather(1, x.argmax(1, keepdim=True)), image, weight=0.4),
    plain("take_along_dim", lambda x: torch.take_along_dim(x, x.argsort(-1), -1), weight=0.3),
    plain("sort", lambda x, descending: torch.sort(x, -1, descending)[0], settings=one_of(descending=(False, True))),
    plain("topk", lambda x: torch.topk(x, 2, dim=-1).values, weight=0.5),
    plain("kthvalue", lambda x: torch.kthvalue(x, 1, -1, keepdim=True).values, weight=0.3),
    # torch's median of an expanded tensor is wrong: it sorts several rows in the memory of one.
    plain("median", lambda x: x.contiguous().median(-1).values, weight=0.2),
)

_REARRANGED = (
    plain("flip", lambda x: torch.flip(x, (-1,)), weight=0.3),
    plain("rot90", lambda x: torch.rot90(x, 1, (2, 3)), image, weight=0.3),
    plain("roll", lambda x: torch.roll(x, 1, -1), weight=0.3),
    plain("repeat", lambda x: x.repeat_interleave(2, -1), weight=0.3),
    plain("tile", lambda x: torch.tile(x, (2,)), weight=0.2),
    plain("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), image, weight=0.5),
    plain("pixel_unshuffle", _unshuffled, image, weight=0.5),
    plain("channel_shuffle", lambda x: torch.channel_shuffle(x, 2), image, weight=0.5),
    plain("triangle", torch.tril, image, weight=0.3),
    plain("unfold_fold", lambda x: F.fold(F.unfold(x, 2, stride=2), x.shape[2:], 2, stride=2), image, weight=0.4),
    plain(
        "pad", F.pad, image,
        one_of(pad=((1, 1, 1, 1), (0, 1, 0, 1), (1, 0), (-1, 1, 0, 0)), mode=("constant", "reflect", "replicate")),
    ),
    plain("pad_value", F.pad, image, one_of(pad=((1, 1), (0, 1, 2, 0)), value=(0.5, -3.0)), weight=0.5),
    plain(
        "interpolate", F.interpolate, image,
        one_of(scale_factor=(2.0, 0.5), mode=("nearest", "nearest-exact", "bilinear", "bicubic", "area")),
    ),
)  # fmt: skip

_WRITTEN = (
    plain("set_number", lambda x: _assigned(x, (slice(None), 0), 0.5), in_place=True, weight=0.5),
    plain("set_slice", lambda x, y: _assigned(x, (slice(None), 0), y[:, -1]), same_shape, arity=2, in_place=True),
    plain("index_fill", lambda x: x.index_fill(1, torch.tensor([0]), -1.0), weight=0.5),
    plain("slice_scatter", lambda x, y: x.slice_scatter(y[:, :1], 1, 1, 2), same_shape, arity=2, weight=0.5),
    plain("masked_scatter", lambda x, y: x.masked_scatter(x > 0.5, y), same_shape, arity=2, weight=0.5),
)

_POOLS = (
    plain("max_pool2d", F.max_pool2d, image, one_of(kernel_size=(2, 3), stride=(1, 2)), weight=1.5),
    plain("max_pool1d", F.max_pool1d, _sequence, one_of(kernel_size=(2,), stride=(1, 2))),
    plain("max_unpool2d", _unpooled, image, weight=0.5),
    plain("avg_pool2d", F.avg_pool2d, image, one_of(kernel_size=(2, 3), stride=(1, 2), padding=(0, 1)), weight=1.5),
    plain("avg_pool1d", F.avg_pool1d, _sequence, one_of(kernel_size=(2,), ceil_mode=(False, True))),
    plain("adaptive_max_pool2d", F.adaptive_max_pool2d, image, one_of(output_size=(1, 3, (2, 4))), weight=0.5),
    plain("adaptive_avg_pool2d", F.adaptive_avg_pool2d, image, one_of(output_size=(1, 3, (2, 4)))),
    plain("lp_pool2d", F.lp_pool2d, image, one_of(norm_type=(2.0,), kernel_size=(2,)), weight=0.3),
    plain("mean", torch.mean, image, one_of(dim=((2, 3), 1), keepdim=(False, True)), weight=0.7),
)

MOVEMENT: tuple[Operation, ...] = (*_VIEWS, *_PARTS, *_CHOSEN, *_REARRANGED, *_WRITTEN, *_POOLS)
