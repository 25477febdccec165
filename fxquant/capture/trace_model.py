"""Tracing a module: a copy of it and example inputs in, a graph with descriptions of its values out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.capture.guard import Guard
from fxquant.capture.inputs import BoundInputs, bind_inputs, copy_tensors
from fxquant.capture.patches import patched
from fxquant.capture.tracer import ValueTracer
from fxquant.errors import CaptureError
from fxquant.ir.containers import RESERVED
from fxquant.ir.meta import NodeInfo, info, set_info, update_info

_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Traced:
    """What a trace gives.

    Attributes:
        root: copy of the user's model, float32.
        graph: every operation as the user spelled it.
        guards: what Python asked during the trace.
        float_dtype: float16 or bfloat16 when the user's model was in that dtype, else None.
    """

    root: nn.Module
    graph: fx.Graph
    guards: tuple[Guard, ...]
    float_dtype: torch.dtype | None


def trace_model(
    model: nn.Module,
    example_inputs: Any,
    *,
    leaf_names: Collection[str] = (),
    leaf_classes: Collection[type[nn.Module]] = (),
) -> Traced:
    """Trace a copy of ``model`` on ``example_inputs``.

    Args:
        model: any module; neither it nor the inputs are changed.
        example_inputs: tuple, dict of keywords, or one tensor.
        leaf_names: module paths to keep as float leaves.
        leaf_classes: module classes to keep as float leaves.

    Returns:
        The trace, in the user's parameter names. float16 and bfloat16 models are traced in float32
        with conversions at their inputs and outputs.

    Raises:
        CaptureError: the model is no plain module, the inputs do not fit, or the trace met something
            that depends on a tensor's value.
    """
    check_root(model, leaf_names)
    with torch.inference_mode(False), torch.no_grad():
        inputs = bind_inputs(model, example_inputs)
        root = copy_module(model)
        half = next((p.dtype for p in root.parameters() if p.dtype in _HALF), None)
        if half is not None:
            root = root.float()
        values = tuple((n, how, copy_tensors(v, _to_float32 if half else _as_is)) for n, how, v in inputs.entries)
        tracer = ValueTracer(BoundInputs(values), leaf_names, leaf_classes)
        graph = _run(tracer, root)
    if half is not None:
        _convert_borders(graph, half)
    return Traced(root, graph, tuple(tracer.guards), half)


def copy_module(model: nn.Module) -> nn.Module:
    """Deep-copy ``model``; tensors computed by autograd (old-style weight norm) are copied by value.

    Raises:
        CaptureError: the model cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise CaptureError(
            f"{type(model).__name__} cannot be copied: {error}",
            remedy="fxquant works on a copy of your model; remove attributes that cannot be deep-copied",
        ) from error


def _run(tracer: ValueTracer, root: nn.Module) -> fx.Graph:
    """Trace, leaving the random state and the buffers of ``root`` as they were."""
    buffers = {name: buffer.clone() for name, buffer in root.named_buffers()}
    with torch.random.fork_rng(devices=[]), patched(tracer, root), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.fx")
        graph = tracer.trace(root)
    for name, buffer in root.named_buffers():
        if name in buffers:
            buffer.copy_(buffers[name])
    return graph


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


def _as_is(tensor: Tensor) -> Tensor:
    return tensor


def _to_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in _HALF else tensor


def _convert_borders(graph: fx.Graph, dtype: torch.dtype) -> None:
    """float32 inside, ``dtype`` outside: convert floating inputs on entry and floating outputs on exit."""
    for node in [node for node in graph.nodes if node.op == "placeholder" or node.target is None]:
        known = info(node).tensor
        if known is not None and known.is_float and node.users:
            _insert_conversion(graph, node, torch.float32)
            update_info(node, value=replace(known, dtype=dtype))
    output = next(node for node in graph.nodes if node.op == "output")

    def convert(node: fx.Node) -> fx.Node:
        known = info(node).tensor
        if known is None or not known.is_float:
            return node
        with graph.inserting_before(output):
            new = graph.call_method("to", (node, dtype))
        made = replace(known, dtype=dtype)
        set_info(new, NodeInfo(value=made, origin=info(node).origin, origins=(new.name,)))
        return new

    output.args = (fx.node.map_arg(output.args[0], convert),)


def _insert_conversion(graph: fx.Graph, node: fx.Node, dtype: torch.dtype) -> None:
    users = list(node.users)
    with graph.inserting_after(node):
        new = graph.call_method("to", (node, dtype))
    set_info(new, NodeInfo(value=info(node).value, origin=info(node).origin, origins=(new.name,)))
    for user in users:
        user.replace_input_with(node, new)
