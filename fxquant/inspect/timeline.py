"""Times of single nodes: a graph run node by node with a clock around every call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxquant.capture.recurrent_root import with_recurrent_child
from fxquant.errors import FxquantError
from fxquant.inspect.float_run import steps
from fxquant.ir import records
from fxquant.ir.meta import info
from fxquant.ir.stages import StageModule

_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def clock() -> Callable[[], float]:
    """What to read times from, in seconds: on one thread its CPU time, which other programs do not disturb."""
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter


class TimedRun(fx.Interpreter):
    """Runs a graph and keeps how long each call took, without what finding its arguments takes.

    Attributes:
        times_s: by node, one entry per run.
        bytes_moved: by node: arguments, result, and the tensors of the module called.
    """

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph, garbage_collect_values=False)
        self.clock = clock()
        self.times_s: dict[str, list[float]] = {}
        self.bytes_moved: dict[str, int] = {}
        self.modules = {str(node.target): self.module_at(node) for node in graph.nodes if node.op == "call_module"}

    def module_at(self, node: fx.Node) -> nn.Module:
        """The module that a node calls."""
        return self.module.get_submodule(str(node.target))

    def once(self, inputs: list[Any]) -> None:
        """Run the graph once; ``inputs`` in the order of its placeholders."""
        for _ in steps(self, inputs):
            pass

    def run_node(self, n: fx.Node) -> Any:
        """Execute ``n`` and note how long it took."""
        if not n.op.startswith("call_"):
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        call, args = self._callable(n, args)
        start = self.clock()
        value = call(*args, **kwargs)
        self.times_s.setdefault(n.name, []).append(self.clock() - start)
        if n.name not in self.bytes_moved:
            held = list(call.buffers()) if isinstance(call, nn.Module) else []
            self.bytes_moved[n.name] = _bytes((args, kwargs, value, held))
        return value

    def _callable(self, n: fx.Node, args: tuple[Any, ...]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if n.op == "call_module":
            return self.modules[str(n.target)], args
        if n.op == "call_method":
            return getattr(args[0], str(n.target)), args[1:]
        assert callable(n.target)
        return n.target, args


class FloatTimes(TimedRun):
    """The float operators that a quantized model was made from, on their real shapes.

    Args:
        quantized: the model.
        float_model: supplies parameters; without it random ones of the same shapes stand in, which take as long.
    """

    def __init__(self, quantized: StageModule, float_model: nn.Module | None) -> None:
        self.float_model = None if float_model is None else with_recurrent_child(float_model)
        self.quantized = quantized
        self.kept: dict[str, Any] = {}
        super().__init__(nn.Module(), records.to_graph(quantized.state.captured))

    def run_node(self, n: fx.Node) -> Any:
        """Execute ``n``; parameters are read, or made once."""
        if n.op != "get_attr":
            return super().run_node(n)
        name = str(n.target)
        if name not in self.kept:
            known = _find(self.quantized, name)
            self.kept[name] = _find(self.float_model, name) if self.float_model is not None else None
            if self.kept[name] is None and self.float_model is not None and known is None:
                raise FxquantError(
                    f"the float model has no {name}, which the quantized model was made from",
                    remedy="pass the model that was given to prepare_fx or quantize",
                )
            if self.kept[name] is None:
                self.kept[name] = _stand_in(n, known)
        return self.kept[name]

    def module_at(self, node: fx.Node) -> nn.Module:
        """The user's module, or one like it."""
        for root in (self.float_model, self.quantized):
            found = None if root is None else _find(root, str(node.target))
            if isinstance(found, nn.Module):
                return found
        known = info(node.all_input_nodes[0]).tensor
        if info(node).op == "batch_norm" and known is not None:
            return _BATCH_NORMS[len(known.shape)](known.shape[1]).eval()
        if info(node).op == "dropout":
            return nn.Identity()
        raise FxquantError(
            f"profile cannot time {node.target} in float", op=node.name, remedy="pass float_model, what was quantized"
        )


def _find(root: nn.Module, name: str) -> Any:
    found: Any = root
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _stand_in(node: fx.Node, known: Any) -> Any:
    meta = info(node).tensor
    if known is not None or meta is None:
        return known
    made = torch.empty(meta.shape, dtype=torch.float32 if meta.is_float else meta.dtype)
    return made.normal_(std=0.05) if meta.is_float else made.zero_()


def _bytes(values: Any) -> int:
    tensors = [item for item in pytree.tree_leaves(values) if isinstance(item, Tensor)]
    return sum(item.numel() * item.element_size() for item in tensors)
