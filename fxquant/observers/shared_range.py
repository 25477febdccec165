"""The range of what all processes of a data-parallel model observe together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def shared_extremes(x: Tensor, observer: Any) -> Tensor:
    """What an observer is shown: ``x``, or in a data-parallel forward the extremes of all processes' ``x``.

    Args:
        x: any shape, without gradient.
        observer: one that goes by minimum and maximum of the whole tensor is shown those two of all processes; others
            see the tensor of their own process.

    Returns:
        ``x``, or float32 [2].
    """
    group = _process_group()
    if group is None or x.numel() == 0 or not _goes_by_extremes(observer):
        return x
    low, high = torch.aminmax(x)
    both = torch.stack((-low, high)).to(torch.float32)
    torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX, group)
    return torch.stack((-both[0], both[1]))


def _process_group() -> Any:
    """The group of the data-parallel model whose forward runs, None outside of one."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return None
    wrapper: Any = torch.nn.parallel.DistributedDataParallel._get_active_ddp_module()  # type: ignore[no-untyped-call]
    return None if wrapper is None else wrapper.process_group


def _goes_by_extremes(observer: Any) -> bool:
    """By name, so that torch.ao's observers are known too."""
    return type(observer).__name__ in ("MinMaxObserver", "MovingAverageMinMaxObserver")
