"""Pooling."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.ops.opdef import Averages, Example, FloatOnly, Kernel, OpDef, Selects

_DOCS = "https://docs.pytorch.org/docs/stable/generated/torch.nn.functional."
_SHAPES = {1: (2, 3, 12), 2: (2, 3, 8, 8), 3: (2, 3, 6, 6, 6)}
_SAME_FUNCTION = {"native": Kernel("same_function")}
_MAX_POOL = "input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False"
_OVERLAPPING = {"kernel_size": 3, "stride": 2, "padding": 1}


def _through_float(name: str, convention: str = "through_float") -> dict[str, Kernel]:
    """torch has these for floats only; they choose numbers, so the way through float32 is exact."""
    return {"native": Kernel(convention, f"aten.{name} in float32, exact")}


def _row(name: str, rank: int, signature: str, *examples: dict[str, Any], **fields: Any) -> OpDef:
    """One row of torch.nn.functional; the examples' activations are images of ``rank`` dimensions."""
    usual: dict[str, Any] = {
        "target": getattr(F, name),
        "output": Selects(),
        "kernels": _through_float(name),
        "examples": tuple(Example((_SHAPES[rank],), example) for example in examples),
        "source": f"{_DOCS}{name.removesuffix('_with_indices')}.html",
    }
    return OpDef(name=name, signature=signature, **{**usual, **fields})


def _max_pool(rank: int) -> OpDef:
    examples = ({"kernel_size": 2}, {**_OVERLAPPING, "ceil_mode": True}, {"kernel_size": 2, "stride": 1, "dilation": 2})
    name = f"max_pool{rank}d"
    kernels = _SAME_FUNCTION if rank == 2 else _through_float(name)
    return _row(
        name, rank, _MAX_POOL, *examples, target=getattr(torch, name), functions=(getattr(F, name),), kernels=kernels
    )


def _max_pool_with_indices(rank: int) -> OpDef:
    examples = ({"kernel_size": 2, "return_indices": True}, {**_OVERLAPPING, "return_indices": True})
    functions = (torch.max_pool1d_with_indices,) if rank == 1 else ()
    return _row(f"max_pool{rank}d_with_indices", rank, _MAX_POOL, *examples, functions=functions)


def _max_unpool(rank: int) -> OpDef:
    large = _SHAPES[rank]
    small = (*large[:2], *(size // 2 for size in large[2:]))
    example = Example((small,), {"indices": _places_of_maxima(rank, large), "kernel_size": 2})
    signature = "input, indices, kernel_size, stride=None, padding=0, output_size=None"
    return _row(f"max_unpool{rank}d", rank, signature, examples=(example,))


def _places_of_maxima(rank: int, shape: tuple[int, ...]) -> Tensor:
    rising = torch.arange(prod(shape), dtype=torch.float32).reshape(shape)
    places: Tensor = getattr(F, f"max_pool{rank}d_with_indices")(rising, 2)[1]
    return places


def _adaptive_max_pool(rank: int) -> OpDef:
    signature = "input, output_size, return_indices=False"
    return _row(f"adaptive_max_pool{rank}d", rank, signature, {"output_size": 2}, {"output_size": 5})


def _adaptive_max_pool_with_indices(rank: int) -> OpDef:
    name, signature = f"adaptive_max_pool{rank}d_with_indices", "input, output_size, return_indices=False"
    functions = (torch.adaptive_max_pool1d,) if rank == 1 else ()
    return _row(name, rank, signature, {"output_size": 2, "return_indices": True}, functions=functions)


def _fractional_max_pool(rank: int, suffix: str) -> OpDef:
    samples = torch.linspace(0.1, 0.9, 6 * rank).reshape(2, 3, rank)
    settings: dict[str, Any] = {"kernel_size": 2, "output_size": 3, "_random_samples": samples}
    if suffix:
        settings["return_indices"] = True
    signature = "input, kernel_size, output_size=None, output_ratio=None, return_indices=False, _random_samples=None"
    name = f"fractional_max_pool{rank}d{suffix}"
    return _row(name, rank, signature, settings, kernels=_through_float(name, "fractional"))


def _avg_pool(rank: int) -> OpDef:
    signature = "input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True"
    examples: list[dict[str, Any]] = [
        {"kernel_size": 2},
        {**_OVERLAPPING, "ceil_mode": True},
        {**_OVERLAPPING, "count_include_pad": False},
    ]
    if rank > 1:
        signature += ", divisor_override=None"
        examples += [{"kernel_size": 2, "divisor_override": 5}, {"kernel_size": 3, "divisor_override": 1}]
    kernels = {"native": Kernel("window_average", f"aten.avg_pool{max(rank, 2)}d")}
    return _row(f"avg_pool{rank}d", rank, signature, *examples, output=Averages(), kernels=kernels)


def _adaptive_avg_pool(rank: int) -> OpDef:
    name = f"adaptive_avg_pool{rank}d"
    examples = ({"output_size": 2}, {"output_size": 1}, {"output_size": 5})
    kernels = {"native": Kernel("adaptive_average", f"aten.{name}")}
    functions = (torch.adaptive_avg_pool1d,) if rank == 1 else ()
    return _row(name, rank, "input, output_size", *examples, functions=functions, output=Averages(), kernels=kernels)


def _lp_pool(rank: int) -> OpDef:
    signature = "input, norm_type, kernel_size, stride=None, ceil_mode=False"
    settings = {"norm_type": 2.0, "kernel_size": 2}
    return _row(f"lp_pool{rank}d", rank, signature, settings, output=FloatOnly(), kernels={})


_BY_RANK = (
    _max_pool,
    _max_pool_with_indices,
    _max_unpool,
    _adaptive_max_pool,
    _adaptive_max_pool_with_indices,
    _avg_pool,
    _adaptive_avg_pool,
    _lp_pool,
)

ROWS = (
    *(make(rank) for make in _BY_RANK for rank in (1, 2, 3)),
    *(_fractional_max_pool(rank, suffix) for rank in (2, 3) for suffix in ("", "_with_indices")),
)
