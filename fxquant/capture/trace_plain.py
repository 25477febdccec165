"""Tracing without example inputs: what plain ``torch.fx`` can do, for ``fuse_fx``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.fx.proxy import TraceError

from fxquant.capture.check_root import check_root
from fxquant.capture.copy_module import copy_module
from fxquant.capture.own_thread import ONE_CAPTURE, OwnThread
from fxquant.capture.trace_model import Traced
from fxquant.errors import CaptureError
from fxquant.ir.meta import NodeInfo, Origin, qualified_name, qualified_type, set_info

_OPENED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.Sequential, nn.ModuleList, nn.ModuleDict)


class PlainTracer(OwnThread, fx.Tracer):
    """torch.fx's tracer that opens convolutions and linears, so that their weights are nodes."""

    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Every torch.nn module but those whose weights fusion rewrites."""
        return super().is_leaf_module(m, module_qualified_name) and type(m) not in _OPENED

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Leave alone what other threads call."""
        return forward(*args, **kwargs) if self.executing else super().call_module(m, forward, args, kwargs)

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Record where the node came from; its value stays unknown."""
        node = super().create_node(kind, target, *args, **kwargs)
        origin = Origin(
            spelling=qualified_name(target),
            module_path=self.scope.module_path,
            module_type=qualified_type(self.scope.module_type) if self.scope.module_type else "",
        )
        set_info(node, NodeInfo(origin=origin, origins=(node.name,)))
        return node


def trace_plain(model: nn.Module) -> Traced:
    """Trace a copy of ``model`` symbolically.

    Raises:
        CaptureError: the model's control flow needs values; with example inputs it may not.
    """
    check_root(model, ())
    root = copy_module(model)
    try:
        with ONE_CAPTURE:
            graph = PlainTracer().trace(root)
    except (TraceError, TypeError, RuntimeError, ValueError) as error:
        raise CaptureError(
            f"{type(model).__name__} cannot be traced without values: {error}", remedy="pass example_inputs"
        ) from error
    return Traced(root, graph, (), (), None)
