"""Where in the user's code the trace is right now."""

from __future__ import annotations

import dis
import importlib.util
import itertools
import linecache
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import CodeType, FrameType

import torch

_TORCH = os.path.dirname(torch.__file__) + os.sep
_STANDARD = os.path.dirname(os.__file__) + os.sep
_SPEC = importlib.util.find_spec("numpy")
_NUMPY = os.path.dirname(_SPEC.origin) + os.sep if _SPEC is not None and _SPEC.origin else _TORCH
_INSTALLED = ("site-packages", "dist-packages")
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_OWN_USER_CODE = os.path.join(_OWN, "demo") + os.sep
_OUTERMOST = os.path.join(_OWN, "capture", "attempt.py")  # what is around its frames is not the model's


@dataclass(frozen=True)
class Place:
    """A place in the user's code.

    Attributes:
        file, line, code: path, number from 1, and text of the line; "", 0 and "" when unknown.
        expression: the part of the line that is being computed, "" when unknown.
    """

    file: str = ""
    line: int = 0
    code: str = ""
    expression: str = ""


@cache
def is_user_file(name: str) -> bool:
    """Whether a file is neither torch's, NumPy's, Python's own nor fxquant's, nor compiled by Cython.

    Functions of these leave frames behind, as decorators do: they are passed over.
    """
    if name.startswith((_TORCH, _NUMPY, "<frozen")) or name.endswith(".pyx"):
        return False
    if name.startswith(_STANDARD):
        return name.removeprefix(_STANDARD).startswith(_INSTALLED)
    return not is_own_file(name)


def is_torch_file(name: str) -> bool:
    """Whether a file is torch's."""
    return name.startswith(_TORCH)


@cache
def is_own_file(name: str) -> bool:
    """Whether a file is fxquant's, the models of its demonstration excepted."""
    return name.startswith(_OWN) and not name.startswith(_OWN_USER_CODE)


def frames() -> Iterator[FrameType]:
    """Frames of the trace that is running, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename != _OUTERMOST:
        yield frame
        frame = frame.f_back


def user_frames() -> Iterator[FrameType]:
    """Frames of the user's code in the trace that is running, the innermost first."""
    return (frame for frame in frames() if is_user_file(frame.f_code.co_filename))


def user_frame() -> FrameType | None:
    """The innermost frame of the user's code, None without one."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name == _OUTERMOST:
            break
        if is_user_file(name):
            return frame
        frame = frame.f_back
    return None


def frames_inside(boundary: CodeType) -> Iterator[FrameType]:
    """Frames of the user's code, the innermost first, up to a frame of ``boundary``."""
    inside = itertools.takewhile(lambda frame: frame.f_code is not boundary, frames())
    return (frame for frame in inside if is_user_file(frame.f_code.co_filename))


def positions_inside(boundary: CodeType) -> tuple[int, ...]:
    """Where the frames of the user's code are in it, the innermost first, up to a frame of ``boundary``."""
    return tuple([frame.f_lasti for frame in frames_inside(boundary)])


def user_line() -> tuple[str, int, str]:
    """(file, line number, text of the line) of the innermost frame of the user's code; ``("", 0, "")`` without one."""
    frame = user_frame()
    if frame is None:
        return "", 0, ""
    name = frame.f_code.co_filename
    return name, frame.f_lineno, linecache.getline(name, frame.f_lineno).strip()


def place_of(code: CodeType, instruction: int) -> Place:
    """Where an instruction is."""
    found = next(itertools.islice(code.co_positions(), instruction // 2, None), (None,))
    name, line = code.co_filename, found[0] or code.co_firstlineno
    return Place(name, line, linecache.getline(name, line).strip(), _expression(code, instruction))


def position(code: CodeType, instruction: int) -> tuple[int, int, int, int] | None:
    """(first line, last line, first column, last column) of an instruction; columns count UTF-8 bytes from 0."""
    found = next(itertools.islice(code.co_positions(), instruction // 2, None), None)
    if found is None or None in found:
        return None
    return found  # type: ignore[return-value]


def position_beside(frame: FrameType, step: int) -> tuple[int, int, int, int] | None:
    """Position of the next instruction (``step`` 2) or the one before (-2), but for caches and parts of long ones."""
    code, place = frame.f_code.co_code, frame.f_lasti + step
    while 0 <= place < len(code) and dis.opname[code[place]] in ("CACHE", "EXTENDED_ARG"):
        place += step
    return position(frame.f_code, place) if place >= 0 else None


def _expression(code: CodeType, instruction: int) -> str:
    found = position(code, instruction)
    if found is None:
        return ""
    first, last, start, end = found
    lines = [linecache.getline(code.co_filename, line).encode() for line in range(first, last + 1)]
    if not lines or not lines[-1]:
        return ""
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][start:]
    return " ".join(b" ".join(lines).decode(errors="replace").split())
