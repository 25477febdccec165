"""Facts about the modules and functions that a model calls."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxquant.capture.facts import FactKind
from fxquant.capture.proxy import ValueProxy
from fxquant.capture.recorder import Recorder
from fxquant.ir.effects import DATA_SHAPED, RANDOM, name_of

_OPENED = "opened"
_COMPOSITES = (
    nn.MultiheadAttention, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder, nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)  # fmt: skip
_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout)


def record_call(recorder: Recorder, module: nn.Module) -> None:
    """Write down a call of a module that plain tracing would swallow whole, or refuse."""
    if isinstance(module, _COMPOSITES):
        recorder.record(FactKind.COMPOSITE, type(module).__name__, _OPENED)
    elif isinstance(module, nn.DataParallel):
        recorder.record(FactKind.DATA_PARALLEL, type(module.module).__name__, _OPENED)
    elif isinstance(module, torch.jit.ScriptModule):
        recorder.record(FactKind.SCRIPTED, module.original_name, "kept whole, in float")
    elif type(module).__name__ == "OptimizedModule":
        recorder.record(FactKind.COMPILED, type(module).__name__, _OPENED)
    elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        recorder.record(FactKind.RECURRENT, type(module).__name__, "kept whole")


def record_operation(
    recorder: Recorder, kind: str, target: Any, kwargs: dict[str, Any], args: Any, training: bool
) -> None:
    """Write down an operation that draws random numbers, or whose result's shape depends on values."""
    name = name_of(target)
    if kind == "call_module":
        return
    if name in RANDOM:
        recorder.record(FactKind.TORCH_RANDOM, name, "recorded: draws anew at every call")
    elif name in DATA_SHAPED or (name == "where" and len(args) == 1):
        recorder.record(FactKind.TENSOR_SHAPE, name, "recorded as an operation")
    elif target in _DROPOUTS and not training and _is_on(target, args, kwargs):
        recorder.record(FactKind.ALWAYS_DROPOUT, name, "recorded: drops anew at every call")


def _is_on(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    default = target not in (F.alpha_dropout, F.feature_alpha_dropout)
    found = kwargs.get("training", args[2] if len(args) > 2 else kwargs.get("train", default))
    return bool(found.value if isinstance(found, ValueProxy) else found)
