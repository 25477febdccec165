"""What stands in the way of a graph, and what could be kept whole to get around it, the smallest part first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType, TracebackType

from torch import nn

from fxquant.capture.facts import Fact
from fxquant.capture.source import frames, is_user_file, position

_GENERATOR = 0x20 | 0x80 | 0x200  # CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR


@dataclass(frozen=True)
class StatementSpot:
    """One statement of a function.

    Attributes:
        code: of the function.
        where: (first line, last line, first column, last column) of the expression in it that was computed.
    """

    code: CodeType
    where: tuple[int, int, int, int]


@dataclass(frozen=True)
class FunctionSpot:
    """One function that is no module's forward."""

    code: CodeType


@dataclass(frozen=True)
class ModuleSpot:
    """One module; "" is the model itself."""

    path: str


Spot = StatementSpot | FunctionSpot | ModuleSpot


@dataclass(frozen=True)
class Trouble:
    """Something that no graph can hold as it is.

    Attributes:
        fact: what was met.
        spots: what could be kept whole, the smallest first; the last is the model itself.
        optional: whether the graph can do without, for inputs of the example's sizes.
    """

    fact: Fact
    spots: tuple[Spot, ...]
    optional: bool = False


Step = tuple[FrameType, int]


def live_steps() -> Iterator[Step]:
    """Frames of the trace that is running, with the instruction each is at, the innermost first."""
    return ((frame, frame.f_lasti) for frame in frames())


def failed_steps(traceback: TracebackType | None) -> list[Step]:
    """Frames that an exception went through below the one that caught it, the innermost first."""
    found: list[Step] = []
    while traceback is not None:
        found.append((traceback.tb_frame, traceback.tb_lasti))
        traceback = traceback.tb_next
    return found[:0:-1]


def spots_of(
    steps: Iterable[Step], modules: Sequence[str], boundary: CodeType, written: Mapping[CodeType, CodeType]
) -> tuple[Spot, ...]:
    """What could be kept whole around the innermost of ``steps``.

    Args:
        steps: frames, the innermost first.
        modules: paths of the modules that are being traced into, the innermost last.
        boundary: code of the tracer's function that traces into a module.
        written: code of the user's functions, by the code that stands for it.
    """
    spots: list[Spot] = []
    entered = list(modules)
    for frame, instruction in steps:
        code = frame.f_code
        if code is boundary and entered:
            spots.append(ModuleSpot(entered.pop()))
        elif is_user_file(code.co_filename):
            spots += _spots_in(frame, position(code, instruction), written.get(code, code))
    spots.append(ModuleSpot(""))
    return tuple(dict.fromkeys(spots))


def _spots_in(frame: FrameType, where: tuple[int, int, int, int] | None, code: CodeType) -> Iterator[Spot]:
    if where is not None and not code.co_name.startswith("<"):
        yield StatementSpot(code, where)
    if not _is_forward(frame) and not code.co_flags & _GENERATOR and not code.co_name.startswith("<"):
        yield FunctionSpot(code)


def _is_forward(frame: FrameType) -> bool:
    code = frame.f_code
    first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
    return code.co_name == "forward" and isinstance(first, nn.Module)


def spots_around(path: str) -> tuple[ModuleSpot, ...]:
    """The module and those around it."""
    spots = [ModuleSpot(path)]
    while path:
        path = path.rpartition(".")[0]
        spots.append(ModuleSpot(path))
    return tuple(spots)
