"""Objects that a part or a leaf is given and that no graph holds: what it changes in them would last for one call only.

A cache that forward makes, and that holds no tensor yet, would be a constant of the graph: filled by the first call, it
would be full in the second. Kept whole is then what is around the place where it is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fxquant.capture.facts import FactKind
from fxquant.capture.structures import has_parts
from fxquant.ir.contents import contents, same_contents
from fxquant.ir.float_part import Child, Hole

if TYPE_CHECKING:
    from fxquant.capture.recorder import Recorder

_DEPTH = 3


class GivenObjects:
    """What is given to one call, looked at before and after it.

    Args:
        given: arguments of the call, with values in the place of proxies.
        containers: whether lists and dictionaries are constants too.
    """

    def __init__(self, given: Any, containers: bool) -> None:
        found = {id(item): item for item in _objects(given, containers, _DEPTH)}
        self._before = [(item, contents(item, _DEPTH)) for item in found.values()]

    def unchanged_by(self, result: Any, recorder: Recorder) -> Any:
        """Report the first of them that the call changed; returns its result."""
        for item, before in self._before:
            if not same_contents(before, contents(item, _DEPTH)):
                title = f"a {type(item).__name__} that it is given is changed by a part that is kept whole"
                recorder.report(FactKind.WRITE_TO_CONSTANT, title)
                break
        return result


def _objects(structure: Any, containers: bool, depth: int) -> Iterator[Any]:
    if isinstance(structure, (Hole, Child)) or depth == 0:
        return
    if has_parts(structure) or (containers and type(structure) in (list, dict, set)):
        yield structure
    elif isinstance(structure, (dict, list, tuple)):
        for item in structure.values() if isinstance(structure, dict) else structure:
            yield from _objects(item, containers, depth - 1)
