"""Every value of one run of a quantized model: integers, floats, and what its standalone modules are called with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.errors import FxquantError
from fxquant.ir.meta import info
from fxquant.ir.quant_plan import CUSTOM, STANDALONE
from fxquant.ir.stages import QuantizedModel

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class RecordedValues:
    """Values of a run.

    Attributes:
        integers: uint8 integers by the name of the captured value they hold.
        floats: other values by node name.
        made_by: kernel description by the name of the value.
        parts: arguments of each standalone module's last call, by path.
        output: what the model returned.
    """

    integers: dict[str, Tensor] = field(default_factory=dict)
    floats: dict[str, Any] = field(default_factory=dict)
    made_by: dict[str, str] = field(default_factory=dict)
    parts: dict[str, Arguments] = field(default_factory=dict)
    output: Any = None


class KernelFailure(FxquantError):
    """A unit's kernel raised an error.

    Attributes:
        part: path of the standalone module it is in, "" for the model itself.
        unit: name of the unit.
    """

    def __init__(self, part: str, unit: str, message: str) -> None:
        super().__init__(message, op=unit, module_path=part)
        self.part, self.unit = part, unit


def record_values(model: QuantizedModel, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> RecordedValues:
    """Run a quantized model and keep every value.

    Args:
        model: the model.
        args, kwargs: inputs as for calling it.

    Raises:
        KernelFailure: a kernel raised an error, which is its cause.
    """
    recorder = _Recorder(model)
    with torch.no_grad():
        recorder.values.output = recorder.run(*positional(model.graph, args, kwargs))
    return recorder.values


def positional(graph: fx.Graph, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """Arguments in the order of the placeholders; those that are left out get their defaults.

    Raises:
        FxquantError: there are more than the model takes, or fewer.
    """
    given, named = list(args), dict(kwargs)
    found: list[Any] = []
    nodes = graph.find_nodes(op="placeholder")
    for node in nodes:
        name = str(node.target)
        if name not in named and not given and not node.args:
            raise FxquantError(f"the inputs lack {name}", remedy=_takes(nodes))
        found.append(named.pop(name) if name in named else given.pop(0) if given else node.args[0])
    if given or named:
        problem = f"the model takes no {', '.join(named)}" if named else f"there are {len(given)} inputs too many"
        raise FxquantError(problem, remedy=_takes(nodes))
    return found


def _takes(nodes: Iterable[fx.Node]) -> str:
    return f"the model takes {', '.join(str(node.target) for node in nodes) or 'none'}"


class _Recorder(fx.Interpreter):
    def __init__(self, model: QuantizedModel) -> None:
        super().__init__(model, garbage_collect_values=False)
        self.values = RecordedValues()
        conventions = {unit.name: unit.kernel.convention for unit in model.plan.units if unit.kernel is not None}
        self.kernels = {name for name, convention in conventions.items() if convention not in (STANDALONE, CUSTOM)}

    def run_node(self, n: fx.Node) -> Any:
        """Execute ``n`` and keep its value."""
        try:
            value = self._run_part(n) if self._is_part(n) else super().run_node(n)
        except KernelFailure:
            raise
        except Exception as error:
            if info(n).unit in self.kernels:
                raise KernelFailure("", info(n).unit, f"{type(error).__name__}: {error}".splitlines()[0]) from error
            raise
        self._keep(n, value)
        return value

    def _is_part(self, n: fx.Node) -> bool:
        return n.op == "call_module" and isinstance(self.fetch_attr(str(n.target)), QuantizedModel)

    def _run_part(self, n: fx.Node) -> Any:
        """Run a standalone module, value by value when that fails, to say which of its kernels it was."""
        path, (args, kwargs) = str(n.target), self.fetch_args_kwargs_from_env(n)
        self.values.parts[path] = tuple(args), dict(kwargs)
        try:
            return super().run_node(n)
        except Exception:
            try:
                record_values(self.fetch_attr(path), tuple(args), kwargs)
            except KernelFailure as failure:
                raise KernelFailure(f"{path}.{failure.part}".rstrip("."), failure.unit, failure.message) from failure
            raise

    def _keep(self, n: fx.Node, value: Any) -> None:
        if isinstance(value, Tensor) and value.is_quantized:
            if info(n).holds:
                self.values.integers[info(n).holds] = (
                    value.int_repr().contiguous()
                )  # torch is not right for every layout
                self.values.made_by[info(n).holds] = self._title(n)
                self._keep_as_read(n)
        elif not _holds_quantized(value):
            self.values.floats[n.name] = value.clone() if isinstance(value, Tensor) else value

    def _keep_as_read(self, n: fx.Node) -> None:
        """A float that is quantized counts as it is then: it may have been changed in place since it was made."""
        for source in n.all_input_nodes if not info(n).unit else ():
            if source.name in self.values.floats:
                self._keep(source, self.env[source])

    def _title(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return type(self.fetch_attr(str(node.target))).__name__
        return str(getattr(node.target, "__name__", node.target))


def _holds_quantized(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_holds_quantized(item) for item in value)
    return isinstance(value, Tensor) and value.is_quantized
