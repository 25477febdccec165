"""What can be captured: plain modules."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from fxquant.errors import CaptureError
from fxquant.ir.containers import RESERVED
from fxquant.ir.stages import (
    CapturedModel,
    FakeQuantizedModel,
    FusedModel,
    ObservedModel,
    QuantizedModel,
    ReferenceModel,
)
from fxquant.ir.walk_modules import modules_by_path

_STAGES = (CapturedModel, FusedModel, ObservedModel, FakeQuantizedModel, ReferenceModel, QuantizedModel)
_OF_GRAPHS = frozenset(name for kind in _STAGES for name in dir(kind)) - frozenset(dir(nn.Module)) | {"meta", "state"}


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
    own = (*model._modules, *model._parameters, *model._buffers)
    taken = [name for name in own if name in RESERVED or name in _OF_GRAPHS]
    if taken:
        raise CaptureError(
            f"the model has a child, parameter or buffer called {taken[0]!r}, a name that its graph needs",
            remedy="rename it, or pass the model as the only child of another one",
        )
    paths = dict(modules_by_path(model)) if leaf_names else {}
    missing = [name for name in leaf_names if name not in paths]
    if missing:
        raise CaptureError(f"no module is called {missing[0]!r}", remedy=f"the model has {', '.join(list(paths)[1:9])}")
