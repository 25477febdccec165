"""What every benchmark prints and writes: the machine, tables, and the same figures as JSON."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate


def machine() -> dict[str, Any]:
    """The processor, its vector instructions, and the versions that figures depend on."""
    return {
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "vnni": bool(torch.cpu._is_vnni_supported()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def print_machine() -> None:
    """Print the machine in one line."""
    print(", ".join(f"{key} {value}" for key, value in machine().items()))


def print_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print one table under a title; floats carry three significant digits or more, `None` is a dash."""
    cells = [[_text(cell) for cell in row] for row in rows]
    alignment = ("left", *("right" for _ in headers[1:]))
    print(f"\n{title}\n{tabulate(cells, headers=headers, colalign=alignment, disable_numparse=True)}")
    sys.stdout.flush()


def write_json(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write the machine and the figures to `path`; nothing when it is None."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n", encoding="utf-8")


def _text(cell: Any) -> str:
    if cell is None:
        return "-"
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.3g}" if abs(cell) < 10 else f"{cell:.1f}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
