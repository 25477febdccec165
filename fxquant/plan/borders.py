"""Values that enter or leave a model as integers, because the custom config says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from fxquant.errors import ConfigError
from fxquant.ir.meta import info
from fxquant.ir.quant_plan import RangeClass
from fxquant.plan.backend import Backend


@dataclass(frozen=True)
class Borders:
    """Which values cross the border as integers.

    Attributes:
        inputs: placeholders, by name.
        outputs: values that leave as integers, by name.
        floats: values that leave in float, by name; a value may do both.
        given: whether the parameters of the inputs come from outside (a standalone module gets its parent's), instead
            of being observed.
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    floats: frozenset[str] = frozenset()
    given: bool = False

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self.inputs or self.outputs)


NO_BORDERS = Borders()


def find_borders(
    graph: fx.Graph,
    input_indexes: tuple[int, ...],
    output_indexes: tuple[int, ...],
    source_of: Mapping[fx.Node, fx.Node],
    given: bool = False,
) -> Borders:
    """Look the indexes up.

    Args:
        graph: a captured graph.
        input_indexes: positions among the placeholders.
        output_indexes: positions in the returned tuple or list; anything else that is returned is element 0.
        source_of: what nodes that do nothing stand for.
        given: see ``Borders``.

    Raises:
        ConfigError: an index is out of range, or what it means holds no float32 tensor.
    """
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for index in input_indexes:
        _require_index("set_input_quantized_indexes", index, len(placeholders), "inputs")
        _require_tensor(placeholders[index], f"input {index}")
    elements = output_elements(graph.output_node().args[0])
    outputs: list[str] = []
    for index in output_indexes:
        _require_index("set_output_quantized_indexes", index, len(elements), "outputs")
        for node in float_nodes(elements[index]):
            outputs.append(source_of.get(node, node).name)
        if not float_nodes(elements[index]):
            raise ConfigError(
                f"output {index} is to be quantized and holds no floating-point tensor",
                remedy="take the index out of set_output_quantized_indexes",
            )
    rest = [element for index, element in enumerate(elements) if index not in output_indexes]
    floats = frozenset(source_of.get(node, node).name for element in rest for node in float_nodes(element))
    names = tuple(placeholders[index].name for index in dict.fromkeys(input_indexes))
    return Borders(names, tuple(dict.fromkeys(outputs)), floats, given)


def require_storable(
    borders: Borders, classes: tuple[RangeClass, ...], class_of: dict[str, str], backend: Backend
) -> None:
    """Refuse borders that the backend's integers cannot cross.

    Raises:
        ConfigError: a qconfig asks for other integers than the backend's.
    """
    by_name = {item.name: item for item in classes}
    for value in (*borders.inputs, *borders.outputs):
        refused = backend.refuses_spec(by_name[class_of[value]].spec)
        if refused:
            raise ConfigError(
                f"{value} is to be quantized at the model's border: {refused}",
                remedy="use a qconfig with a uint8 observer for what reads or makes it",
            )


def output_elements(returned: Any) -> list[Any]:
    """The elements that output indexes count: those of a tuple or list, else the one thing that is returned."""
    return list(returned) if isinstance(returned, (tuple, list)) else [returned]


def float_nodes(element: Any) -> list[fx.Node]:
    """Nodes within an output element that hold one floating-point tensor each."""
    found: list[fx.Node] = []
    fx.node.map_arg(element, found.append)
    return [node for node in found if info(node).is_float_tensor]


def _require_index(setter: str, index: int, count: int, what: str) -> None:
    if not isinstance(index, int) or not 0 <= index < count:
        raise ConfigError(f"{setter} names index {index!r}, and the model has {count} {what}", remedy="count from 0")


def _require_tensor(node: fx.Node, title: str) -> None:
    known = info(node)
    if not known.is_float_tensor:
        raise ConfigError(
            f"{title} ({node.target}) is to be quantized and is no single floating-point tensor in example_inputs",
            remedy="pass a float tensor for it; prepared models take it in float, converted ones quantized",
        )
