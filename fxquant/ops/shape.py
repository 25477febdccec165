"""Shape changes and data movement: the numbers stay what they are."""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F

from fxquant.ops import set_item
from fxquant.ops.opdef import Example, FloatOnly, Kernel, Moves, OpDef, Output, Query, Selects

_DOCS = "https://docs.pytorch.org/docs/stable/generated/torch."
_IMAGE = ((2, 4, 6, 6),)
_SAME = {"native": Kernel("same_function")}
_ON_INTEGERS = {"native": Kernel("on_integers")}


def _moves(
    name: str,
    signature: str,
    *,
    method: bool = False,
    aliases: tuple[object, ...] = (),
    methods: tuple[str, ...] = (),
    output: Output | None = None,
    on_integers: bool = False,
    example: dict[str, object] | None = None,
) -> OpDef:
    """One row for an op that moves numbers; ``method`` when torch has no function of that name."""
    return OpDef(
        name=name,
        target=name if method else getattr(torch, name),
        signature=signature,
        functions=aliases,  # type: ignore[arg-type]
        methods=(name, *methods),
        output=output or Moves(),
        kernels=_ON_INTEGERS if on_integers else _SAME,
        examples=() if example is None else (Example(_IMAGE, example),),
        source=f"{_DOCS}{'Tensor.' if method else ''}{name}.html",
    )


MOVES = (
    _moves("flatten", "input, start_dim=0, end_dim=-1", example={"start_dim": 1}),
    _moves("reshape", "input, *shape", method=True, aliases=(torch.reshape,), methods=("view",),
           example={"shape": (2, 8, 18)}),
    _moves("permute", "input, *dims", method=True, aliases=(torch.permute,), example={"dims": (0, 2, 3, 1)}),
    _moves("transpose", "input, dim0, dim1", aliases=(torch.swapaxes, torch.swapdims),
           methods=("swapaxes", "swapdims"), example={"dim0": 1, "dim1": 2}),
    _moves("squeeze", "input, *dim", method=True, aliases=(torch.squeeze,), example={"dim": (1,)}),
    _moves("unsqueeze", "input, dim", example={"dim": 1}),
    _moves("contiguous", "input, *, memory_format=None",
           method=True, example={}),
    _moves("clone", "input, *, memory_format=None", example={}),
    _moves("detach", "input", example={}),
    _moves("chunk", "input, chunks, dim=0", example={"chunks": 2, "dim": 1}),
    _moves("narrow", "input, dim, start, length", example={"dim": 1, "start": 1, "length": 2}),
    _moves("select", "input, dim, index", example={"dim": 1, "index": 1}),
    _moves("unbind", "input, dim=0", example={"dim": 1}),
    _moves("expand", "input, *size", method=True, example={"size": (1, -1, -1, -1, -1)}),
    _moves("repeat", "input, *repeats", method=True, example={"repeats": (1, 2, 1, 1)}),
    _moves("movedim", "input, source, destination", aliases=(torch.moveaxis,), methods=("moveaxis",),
           example={"source": 1, "destination": -1}),
    _moves("flip", "input, *dims", method=True, aliases=(torch.flip,), example={"dims": (2,)}),
    _moves("roll", "input, shifts, dims=()", on_integers=True, example={"shifts": 1, "dims": 2}),
    _moves("pixel_shuffle", "input, upscale_factor", aliases=(F.pixel_shuffle,), example={"upscale_factor": 2}),
    _moves("pixel_unshuffle", "input, downscale_factor", aliases=(F.pixel_unshuffle,), on_integers=True,
           example={"downscale_factor": 2}),
)  # fmt: skip

SPLIT = OpDef(
    name="split",
    target=torch.split,
    signature="tensor, split_size_or_sections, dim=0",
    methods=("split", "split_with_sizes"),
    activations=("tensor",),
    output=Moves(),
    kernels=_SAME,
    examples=(
        Example(_IMAGE, {"split_size_or_sections": 2, "dim": 1}),
        Example(_IMAGE, {"split_size_or_sections": [1, 3], "dim": 1}),
    ),
    source=_DOCS + "split.html",
)

GETITEM = OpDef(
    name="getitem",
    target=operator.getitem,
    signature="input, index",
    methods=("__getitem__",),
    output=Moves(),
    kernels=_ON_INTEGERS,
    examples=(
        Example(_IMAGE, {"index": (slice(None), slice(0, 2))}),
        Example(_IMAGE, {"index": (slice(None), 1)}),
        Example(_IMAGE, {"index": (Ellipsis, slice(None, None, 2))}),
    ),
    source="https://docs.pytorch.org/docs/stable/tensor_view.html",
)

SET_ITEM = OpDef(
    name="set_item",
    target=set_item.set_item,
    signature="input, index, value",
    functions=(operator.setitem,),
    methods=("__setitem__",),
    activations=("input", "value"),
    output=FloatOnly("item assignment is computed in float in this version"),
)

CAT = OpDef(
    name="cat",
    target=torch.cat,
    signature="tensors, dim=0",
    functions=(torch.concat, torch.concatenate),
    activations=("tensors",),
    output=Selects(),
    kernels={"native": Kernel("cat", "quantized.cat")},
    examples=(Example(((2, 3, 6, 6), (2, 3, 6, 6)), {"dim": 1}),),
    source=_DOCS + "cat.html",
)

STACK = OpDef(
    name="stack",
    target=torch.stack,
    signature="tensors, dim=0",
    activations=("tensors",),
    output=Selects(),
    kernels={"native": Kernel("stack", "quantized.cat")},
    examples=(Example(((2, 3, 6, 6), (2, 3, 6, 6)), {"dim": 1}),),
    source=_DOCS + "stack.html",
)

PAD = OpDef(
    name="pad",
    target=F.pad,
    signature="input, pad, mode='constant', value=None",
    output=Selects(),
    kernels={"native": Kernel("pad", "aten.pad on integers")},
    examples=(Example(_IMAGE, {"pad": (1, 2, 1, 0)}), Example(_IMAGE, {"pad": (1, 1, 1, 1), "mode": "reflect"})),
    source=_DOCS + "nn.functional.pad.html",
)

INTERPOLATE = OpDef(
    name="interpolate",
    target=F.interpolate,
    signature="input, size=None, scale_factor=None, mode='nearest', align_corners=None, "
    "recompute_scale_factor=None, antialias=False",
    output=Selects(),
    kernels={"native": Kernel("interpolate", "aten.upsample_nearest on integers")},
    examples=(
        Example(_IMAGE, {"scale_factor": 2.0}),
        Example(_IMAGE, {"size": (9, 5)}),
        Example(_IMAGE, {"scale_factor": 2.0, "mode": "bilinear", "align_corners": False}),
    ),
    source=_DOCS + "nn.functional.interpolate.html",
)

QUERIES = tuple(
    OpDef(name=name, target=name, signature="input, *args", methods=(name,), output=Query())
    for name in ("size", "numel", "nelement", "stride", "storage_offset", "element_size")
)

ROWS = (*MOVES, SPLIT, GETITEM, SET_ITEM, CAT, STACK, PAD, INTERPOLATE, *QUERIES)
