"""What is attached to each node of a trace: its value's description, and where in the user's code it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from fxquant.capture.source import positions_inside, user_line
from fxquant.ir.meta import (
    NodeInfo,
    Origin,
    describe_value,
    info,
    largest_magnitude,
    qualified_name,
    qualified_type,
    set_info,
    storage_of,
)

if TYPE_CHECKING:
    from fxquant.capture.tracer import ValueTracer


_FROM_NUMPY = torch.from_numpy  # a trace puts another function in its place
# Calls that make tensors without values.
UNWRITTEN = (torch.empty, torch.empty_like, "new_empty")


def describe_node(tracer: ValueTracer, node: fx.Node, value: Any, mutates: tuple[str, ...] = ()) -> None:
    """Attach what is known of a node.

    Args:
        tracer: of the trace; its scope is the module that is running.
        node: just made.
        value: on the example.
        mutates: names of the nodes whose values it changes.
    """
    if node.target in UNWRITTEN and isinstance(value, Tensor) and not value.is_meta:
        value.zero_()  # what lies in such memory says nothing; ``fill_empty`` has graphs do the same
    file, line, code = user_line()
    origin = Origin(
        spelling=spelling(node),
        module_path=tracer.scope.module_path,
        module_type=qualified_type(tracer.scope.module_type),
        call=tracer.scope.call,
        file=file,
        line=line,
        code=code,
        at=positions_inside(tracer.recorder.boundary) if tracer.settings.trains else (),
    )
    storage = storage_of(value)
    if node.target is _FROM_NUMPY and isinstance(node.args[0], fx.Node):
        storage = info(node.args[0]).storage or storage  # its own begins where a slice of the array does
    found = NodeInfo(
        value=describe_value(value), origin=origin, origins=(node.name,), mutates=mutates,
        storage=storage, largest=0.0 if node.op == "get_attr" else largest_magnitude(value),
    )  # fmt: skip
    set_info(node, found)


def spelling(node: fx.Node) -> str:
    """How the user wrote an operation, see ``Origin``."""
    return str(node.target) if node.op == "call_module" else qualified_name(node.target)


def name_after_module(tracer: ValueTracer, kind: str) -> str | None:
    """Operations of a simple torch.nn module are named after the module: ``layer1_0_conv1``."""
    scope = tracer.scope
    named = scope.simple and scope.module_path and scope.module_type.__module__.startswith("torch.nn.")
    return scope.module_path.replace(".", "_") if named and kind in ("call_function", "call_method") else None
