"""One timed call of a quantized model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ProfileRow:
    """One node of the quantized graph.

    Attributes:
        node: its name, unit: planned unit it belongs to, module_path: module it came from, op: catalogue name.
        kind: ``int8``, ``step`` (float between integer neighbours), ``float``, ``conversion`` or ``other``.
        kernel: what runs it.
        median_ms: of one call, float_ms: of the float operators that it stands for, 0 for none.
        bytes_moved: arguments, result and weights.
        reads, readers: names of the nodes around it.
    """

    node: str
    unit: str
    module_path: str
    op: str
    kind: str
    kernel: str
    median_ms: float
    float_ms: float
    bytes_moved: int
    reads: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
