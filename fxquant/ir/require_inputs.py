"""Saying what is wrong with the inputs that a graph was called with, once it failed on them."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, fx

from fxquant.errors import FxquantError
from fxquant.ir.checks import CHECKS
from fxquant.ir.meta import TensorMeta, info

_PARTS = (getattr, operator.getitem, *CHECKS)
_REMEDY = "prepare the model again with example_inputs like these, or call it with inputs like its example_inputs"


def require_inputs(graph: fx.Graph, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise when inputs are not the ones that the model was captured with: another number, other kinds, other keys.

    Sizes and values are none of this function's business. A graph that was captured without example inputs knows the
    names of its inputs only.

    Args:
        graph: of any stage.
        args, kwargs: what it was called with.

    Raises:
        FxquantError: names the first input that does not fit.
    """
    expected = {str(node.target): info(node).value for node in graph.nodes if node.op == "placeholder"}
    names = list(expected)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    missing = [name for name in names if name not in given]
    if len(args) > len(names) or missing or set(given) - set(names):
        found = f"{len(args)} positional inputs" + "".join(f" and {name!r}" for name in kwargs)
        raise FxquantError(
            f"the model was captured with the inputs {', '.join(names) or 'none'} and is called with {found}",
            remedy=_REMEDY,
        )
    for name in names:
        for difference in _differences(expected[name], given[name], name):
            raise FxquantError(difference, remedy=_REMEDY)
    _require_parts(graph, given)


def _require_parts(graph: fx.Graph, given: Mapping[str, Any]) -> None:
    """Make the checks of what inputs hold, such as the fields of a data class."""
    known: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            known[node] = given[str(node.target)]
        elif node.target in _PARTS and all(item in known for item in node.all_input_nodes):
            function: Any = node.target
            args = fx.node.map_arg(node.args, known.__getitem__)
            try:
                known[node] = function(*args)
            except (AttributeError, LookupError, TypeError):  # the graph itself says so
                continue


def _differences(expected: Any, given: Any, title: str) -> Iterator[str]:
    """Sentences that say how an input differs from the description of the example's."""
    if isinstance(expected, TensorMeta):
        if not isinstance(given, Tensor):
            shown = "None" if given is None else f"a {type(given).__name__}"
            yield f"input {title!r} was a tensor when the model was captured and is {shown} now"
    elif isinstance(expected, (dict, tuple, list)) and given is None:
        yield f"input {title!r} was a {type(expected).__name__} when the model was captured and is None now"
    elif isinstance(expected, dict) and isinstance(given, Mapping):
        if set(expected) != set(given):
            yield f"input {title!r} had the keys {list(expected)} when the model was captured and has {list(given)} now"
            return
        for key, item in expected.items():
            yield from _differences(item, given[key], f"{title}[{key!r}]")
    elif isinstance(expected, (tuple, list)) and isinstance(given, (tuple, list)):
        for index, (item, value) in enumerate(zip(expected, given, strict=False)):
            yield from _differences(item, value, f"{title}[{index}]")
