"""Lists among the inputs that may be of any length, such as the images that a detector takes.

Whether a list is such a one is not declared anywhere, so it is tried: eager runs on it with one element more. The graph
then has the list as one value, and code that goes through it runs as Python where no weights are in it. All other
containers are taken apart, and have the number of elements that they have on the example.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import nn

from fxquant.capture.inputs import bind_inputs, map_leaves
from fxquant.capture.run_eager import run_eager
from fxquant.capture.structures import holds_tensor

Path = tuple[Any, ...]


def varying_lists(model: nn.Module, example_inputs: Any) -> frozenset[Path]:
    """Paths of the lists that eager takes with one more element; each begins with the name of the input.

    Args:
        model: not changed. Nothing is run when there are no lists of tensors.
        example_inputs: tuple, dict of keywords, or one tensor.
    """
    entries = bind_inputs(model, example_inputs).entries
    lengths = lists_in({name: value for name, _, value in entries})
    varying: set[Path] = set()
    for length in dict.fromkeys(lengths.values()):  # as many targets as images
        paths = {path for path, known in lengths.items() if known == length}
        if _takes_more(model, entries, paths):
            varying |= paths
    return frozenset(varying)


def lists_in(inputs: Any) -> dict[Path, int]:
    """Lengths of the outermost lists that hold tensors, by their paths, which are those of ``map_leaves``.

    Not of those that hold None: which elements there are is told by their place.
    """
    found: dict[Path, int] = {}

    def at_container(container: Any, path: Path) -> Any:
        if type(container) is not list or not holds_tensor(container) or any(item is None for item in container):
            return None
        found[path] = len(container)
        return container

    map_leaves(inputs, lambda leaf, path: leaf, at_container=at_container)
    return found


def with_lists(inputs: Any, paths: Collection[Path], change: Callable[[list[Any]], list[Any]]) -> Any:
    """The inputs with other lists at some paths."""
    return map_leaves(
        inputs, lambda leaf, path: leaf, at_container=lambda items, path: change(items) if path in paths else None
    )


def one_more(items: list[Any]) -> list[Any]:
    """A list with its last element once more."""
    return [*items, items[-1]]


def _takes_more(model: nn.Module, entries: tuple[tuple[str, str, Any], ...], paths: Collection[Path]) -> bool:
    grown = with_lists({name: value for name, _, value in entries}, paths, one_more)
    args = [grown[name] for name, how, _ in entries if how == "positional"]
    kwargs = {name: grown[name] for name, how, _ in entries if how == "keyword"}
    try:
        run_eager(model, args, kwargs)
    except Exception:  # whatever it says of the list
        return False
    return True
