"""The table of a float model beside its int8 one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tabulate import tabulate
from torch import nn

from fxquant.calibration import Batch
from fxquant.demo.measure import median_latency_ms, state_bytes
from fxquant.demo.run import OUTCOME_TITLES
from fxquant.demo.task import format_metric
from fxquant.diagnose import OutputSqnr
from fxquant.inspect.explain import Explanation, explain
from fxquant.ir.stages import StageModule

_LATENCY_SECONDS = 2.0
_MOST_BATCHES = 8


@dataclass(frozen=True)
class BeforeAfter:
    """Float and int8 side by side.

    Attributes:
        sqnr_db: of int8's outputs on the calibration data, None where there is none.
        bytes: of the state_dicts, latency_ms: median of one call on one thread; (float, int8).
        file_bytes: of the file.
        explanation: of the int8 model.
    """

    sqnr_db: float | None
    bytes: tuple[int, int]
    latency_ms: tuple[float, float]
    file_bytes: int
    explanation: Explanation

    def as_json(self) -> dict[str, Any]:
        """The figures by name."""
        return {
            "sqnr_db": self.sqnr_db,
            "bytes": {"float": self.bytes[0], "int8": self.bytes[1]},
            "file_bytes": self.file_bytes,
            "latency_ms": {"float": self.latency_ms[0], "int8": self.latency_ms[1]},
            "operators": self.explanation.counts,
            "int8_mac_share": self.explanation.int8_mac_share,
            "notes": self.explanation.notes,
        }

    def __str__(self) -> str:
        rows: list[tuple[str, str, str, str]] = []
        if self.sqnr_db is not None:
            rows.append(("SQNR of the output", "exact", format_metric("sqnr_db", self.sqnr_db), ""))
        sizes = (f"{self.bytes[0] / 1e6:.3f} MB", f"{self.bytes[1] / 1e6:.3f} MB")
        rows.append(("size of the state_dict", *sizes, f"{self.bytes[1] / max(self.bytes[0], 1):.2f} x"))
        rows.append(("size of the file", "", f"{self.file_bytes / 1e6:.3f} MB", ""))
        times = (f"{self.latency_ms[0]:.2f} ms", f"{self.latency_ms[1]:.2f} ms")
        rows.append(("latency of one call, 1 thread", *times, f"{self.latency_ms[1] / self.latency_ms[0]:.2f} x"))
        total, found = len(self.explanation.rows), self.explanation
        for outcome, count in found.counts.items():
            before = str(total) if outcome == "float" else "0"
            rows.append((f"operators: {OUTCOME_TITLES[outcome]}", before, str(count), ""))
        rows.append(("multiply-accumulates in int8", "0.0 %", f"{100 * found.int8_mac_share:.1f} %", ""))
        align = ("left", "right", "right", "right")
        return tabulate(rows, ("", "float", "int8", ""), colalign=align, disable_numparse=True)


def measure(
    model: nn.Module, quantized: StageModule, example: Batch, batches: list[Batch], file_bytes: int
) -> BeforeAfter:
    """Measure both models.

    Args:
        model: float, quantized: made from it.
        example: arguments of the call to time.
        batches: to compare the outputs on, the first few of them; may be empty.
        file_bytes: size of the file.
    """
    judged = OutputSqnr(model, batches[:_MOST_BATCHES])(quantized) if batches else None
    latency = median_latency_ms((model, quantized), *example, seconds=_LATENCY_SECONDS)
    sizes = state_bytes(model), state_bytes(quantized)
    return BeforeAfter(judged, sizes, (latency[0], latency[1]), file_bytes, explain(quantized))
