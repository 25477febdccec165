"""Pooling and reductions to a mean."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fxquant.ops.opdef import Averages, Example, FloatOnly, Kernel, OpDef, Selects

_DOCS = "https://docs.pytorch.org/docs/stable/generated/torch.nn.functional."
_SHAPES = {1: (2, 3, 12), 2: (2, 3, 8, 8), 3: (2, 3, 6, 6, 6)}


def _max_pool(rank: int) -> OpDef:
    return OpDef(
        name=f"max_pool{rank}d",
        target=getattr(torch, f"max_pool{rank}d"),
        signature="input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False",
        functions=(getattr(F, f"max_pool{rank}d"),),
        output=Selects(),
        kernels={"native": Kernel("pool_integers" if rank == 3 else "same_function", f"aten.max_pool{rank}d")},
        examples=(Example((_SHAPES[rank],), {"kernel_size": 2}),),
        source=f"{_DOCS}max_pool{rank}d.html",
    )


def _adaptive_max_pool(rank: int) -> OpDef:
    return OpDef(
        name=f"adaptive_max_pool{rank}d",
        target=getattr(F, f"adaptive_max_pool{rank}d"),
        signature="input, output_size, return_indices=False",
        output=Selects(),
        kernels={"native": Kernel("pool_integers", f"aten.adaptive_max_pool{rank}d")},
        examples=(Example((_SHAPES[rank],), {"output_size": 2}),),
        source=f"{_DOCS}adaptive_max_pool{rank}d.html",
    )


def _avg_pool(rank: int) -> OpDef:
    return OpDef(
        name=f"avg_pool{rank}d",
        target=getattr(F, f"avg_pool{rank}d"),
        signature="input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True"
        + (", divisor_override=None" if rank > 1 else ""),
        output=Averages(),
        kernels={"native": Kernel("average", f"aten.avg_pool{rank}d")},
        examples=(Example((_SHAPES[rank],), {"kernel_size": 2}),),
        source=f"{_DOCS}avg_pool{rank}d.html",
    )


def _adaptive_avg_pool(rank: int) -> OpDef:
    return OpDef(
        name=f"adaptive_avg_pool{rank}d",
        target=getattr(F, f"adaptive_avg_pool{rank}d"),
        signature="input, output_size",
        functions=(torch.adaptive_avg_pool1d,) if rank == 1 else (),
        output=Averages() if rank < 3 else FloatOnly("its int8 kernel does not exist on every engine"),
        kernels={"native": Kernel("average", f"aten.adaptive_avg_pool{rank}d")} if rank < 3 else {},
        examples=(Example((_SHAPES[rank],), {"output_size": 2}), Example((_SHAPES[rank],), {"output_size": 1})),
        source=f"{_DOCS}adaptive_avg_pool{rank}d.html",
    )


MEAN = OpDef(
    name="mean",
    target=torch.mean,
    signature="input, dim=None, keepdim=False, *, dtype=None",
    methods=("mean",),
    output=Averages(),
    kernels={"native": Kernel("average", "aten.mean")},
    examples=(Example(((2, 3, 8, 8),), {"dim": (2, 3)}),),
    source="https://docs.pytorch.org/docs/stable/generated/torch.mean.html",
)

ROWS = (
    *(make(rank) for make in (_max_pool, _adaptive_max_pool, _avg_pool, _adaptive_avg_pool) for rank in (1, 2, 3)),
    MEAN,
)
