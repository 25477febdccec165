"""Facts about the modules and functions that a model calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fxquant.capture.facts import RECORDED, FactKind
from fxquant.capture.plain_call import plainly_recorded
from fxquant.capture.recorder import Recorder
from fxquant.capture.structures import leaves, unwrap

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer

_OPENED = "opened"
_COMPOSITES = (
    nn.MultiheadAttention, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder, nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)  # fmt: skip


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


def record_factory(tracer: ValueTracer, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> None:
    """Write down a tensor that is made from sizes, where plain tracing cannot; or of the values of others."""
    if function in (torch.tensor, torch.as_tensor) and any(isinstance(item, Tensor) for item in leaves(unwrap(args))):
        tracer.record(FactKind.TENSOR_NUMBER, function.__name__, RECORDED)
        return
    with tracer.nothing_recorded():
        plain = plainly_recorded(function, args, kwargs)
    if not plain:
        tracer.record(FactKind.FACTORY, function.__name__, RECORDED)
