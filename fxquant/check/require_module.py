"""Refusing what is no plain module, with what to pass instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch._ops import OpOverload

from fxquant.errors import CaptureError
from fxquant.ir.stages import FusedModel, StageModule


def require_module(model: Any) -> None:
    """Refuse models that cannot be looked into.

    Raises:
        CaptureError: TorchScript, compiled or exported models and their graphs, classes, state_dicts, functions, models
            that fxquant already planned, models on the meta device or with lazy parameters.
    """
    refusal = _refusal(model)
    if refusal is not None:
        raise CaptureError(refusal[0], remedy=refusal[1])


def _refusal(model: Any) -> tuple[str, str] | None:
    name = type(model).__name__
    if isinstance(model, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        return f"{name} is TorchScript, whose Python source is gone", "pass the nn.Module it was made from"
    if isinstance(model, nn.Module):
        return _refusal_of_module(model)
    if isinstance(model, torch.export.ExportedProgram):
        return "an exported program is a graph already", "pass the nn.Module that was given to torch.export.export"
    if isinstance(model, type) and issubclass(model, nn.Module):
        return f"{model.__name__} is a class, not a model", f"pass an instance: {model.__name__}(...)"
    if isinstance(model, Mapping):
        return f"a {name} of weights is not a model", "load it into one: model.load_state_dict(...), and pass the model"
    if hasattr(model, "_torchdynamo_orig_callable"):
        return "a torch.compile'd function cannot be captured", "pass the nn.Module, before torch.compile"
    if callable(model):
        return f"expected an nn.Module, got {name}", "call it in the forward of a small nn.Module, and pass that"
    return f"expected an nn.Module, got {name}", "pass the model itself"


def _refusal_of_module(model: nn.Module) -> tuple[str, str] | None:
    name = type(model).__name__
    if name == "OptimizedModule":
        return "a torch.compile'd module cannot be captured", "pass model._orig_mod, or the model before torch.compile"
    if isinstance(model, StageModule) and not isinstance(model, FusedModel):
        return f"{name} came out of fxquant: it is a graph already", "pass the float model it was made from"
    if isinstance(model, fx.GraphModule) and any(isinstance(node.target, OpOverload) for node in model.graph.nodes):
        return f"{name} is an exported graph of torch's own operators", "pass the nn.Module that it was exported from"
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return "a DistributedDataParallel model belongs to a group of processes", "pass model.module"
    tensors = [*model.named_parameters(), *model.named_buffers()]
    lazy = next((key for key, item in tensors if nn.parameter.is_lazy(item)), None)
    if lazy is not None:
        return f"{lazy} has no shape yet: its module is lazy", "call model(*example_inputs) once before"
    meta = next((key for key, item in tensors if item.is_meta), None)
    if meta is not None:
        return f"{meta} is on the meta device: it has no values", "load the weights first: model.to_empty(device='cpu')"
    return None
