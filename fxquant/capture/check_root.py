"""What can be captured: plain modules."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from fxquant.errors import CaptureError
from fxquant.ir.containers import RESERVED


def check_root(model: nn.Module, leaf_names: Collection[str]) -> None:
    """Refuse what is no plain module.

    Raises:
        CaptureError: with what to pass instead.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError("a TorchScript module cannot be captured", remedy="pass the nn.Module it was made from")
    if not isinstance(model, nn.Module):
        raise CaptureError(
            f"expected an nn.Module, got {type(model).__name__}", remedy="wrap functions in a small nn.Module"
        )
    if type(model).__name__ == "OptimizedModule":
        raise CaptureError("a torch.compile'd module cannot be captured", remedy="pass model._orig_mod")
    taken = [name for name, _ in model.named_children() if name in RESERVED]
    if taken:
        raise CaptureError(f"the model has a child called {taken[0]!r}, a name fxquant needs", remedy="rename it")
    paths = dict(model.named_modules())
    missing = [name for name in leaf_names if name not in paths]
    if missing:
        raise CaptureError(f"no module is called {missing[0]!r}", remedy=f"the model has {', '.join(list(paths)[1:9])}")
