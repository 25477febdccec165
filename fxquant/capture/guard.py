"""What a capture assumed: facts of the example that the graph has built in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Guard:
    """One question that Python asked during capture, and the answer taken from the example.

    Attributes:
        kind: ``static`` (rank, dtype, device, length of a tuple), ``branch`` (an ``if`` on sizes or flags),
            ``size`` (a size became a Python integer), ``flag`` (a non-tensor input), ``training``.
        file, line, code: the user's line that asked.
        module_path: module whose forward asked.
        value: the answer, as text.
    """

    kind: str
    file: str
    line: int
    code: str
    module_path: str
    value: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.code or '?'}  = {self.value}  ({self.file}:{self.line})"
