"""The result of a check."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from fxquant.check.coverage import Coverage
from fxquant.check.finding import Finding, Severity
from fxquant.check.float_regions import FloatRegion
from fxquant.check.proof import Proof
from fxquant.check.render_report import render


@dataclass(frozen=True)
class TraceReport:
    """What a check found. ``str()`` is for people, ``to_json()`` for tools.

    Attributes:
        model: name of the model's class.
        inputs: shapes and dtypes of the example, as text.
        findings: all of them, unhandled errors first.
        proof: the comparisons of the graph with eager.
        coverage: how much will be int8.
        regions: parts of the graph that are kept whole in float.
        captured: whether there is a graph.
        plain_tracing: what torch.fx says of the model, "" when it traces it.
        seconds: how long the check took.
    """

    model: str
    inputs: str
    findings: tuple[Finding, ...] = ()
    proof: Proof = field(default_factory=Proof)
    coverage: Coverage = field(default_factory=lambda: Coverage(note="there is no graph to plan"))
    regions: tuple[FloatRegion, ...] = ()
    captured: bool = False
    plain_tracing: str = ""
    seconds: float = 0.0

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Errors that fxquant does not handle."""
        return tuple(item for item in self.findings if item.is_unhandled_error)

    @property
    def ok(self) -> bool:
        """Whether there is a graph and no error is left unhandled."""
        return self.captured and not self.errors

    @property
    def exit_code(self) -> int:
        """0, or 1 when an error is unhandled."""
        return 0 if self.ok else 1

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings of one severity."""
        return tuple(item for item in self.findings if item.severity is severity)

    def to_json(self, indent: int | None = 2) -> str:
        """The whole report as JSON text.

        The object has the attributes of this class as keys, and ``ok`` and ``verdict``. Findings have the attributes of
        ``Finding``; enumerations are their values.
        """
        from_data = {
            "ok": self.ok,
            "verdict": self.verdict,
            "model": self.model,
            "inputs": self.inputs,
            "captured": self.captured,
            "plain_tracing": self.plain_tracing,
            "seconds": round(self.seconds, 3),
            "findings": [dataclasses.asdict(item) for item in self.findings],
            "proof": [_row(row) for row in self.proof.rows],
            "coverage": {
                **dataclasses.asdict(self.coverage),
                "parameter_share": self.coverage.parameter_share,
                "mac_share": self.coverage.mac_share,
            },
            "regions": [dataclasses.asdict(region) for region in self.regions],
        }
        return json.dumps(from_data, indent=indent, default=str)

    @property
    def verdict(self) -> str:
        """One line: whether the model can be quantized, and what of it."""
        handled = sum(item.severity is Severity.ERROR for item in self.findings) - len(self.errors)
        warnings = len(self.of(Severity.WARNING))
        things = f"{_counted(handled, 'thing')} that plain tracing gets wrong {'is' if handled == 1 else 'are'} handled"
        int8 = f"{100 * self.coverage.mac_share:.0f} % of the multiply-accumulates will be int8"
        counts = [
            things if handled else "",
            f"{_counted(warnings, 'warning')}" if warnings else "",
            int8 if self.coverage.macs else "",
        ]
        rest = ", ".join(item for item in counts if item)
        if not self.captured:
            return f"NOT TRACEABLE: {_counted(len(self.errors), 'error')} in the way"
        if self.errors:
            return f"NOT SAFE: {_counted(len(self.errors), 'error')} unhandled" + (f", {rest}" if rest else "")
        if self.regions and self.coverage.macs and not self.coverage.int8_macs:
            counts[-1] = ""
            rest = ", ".join(item for item in counts if item)
            runs = "run" if self.regions[0].is_plural else "runs"
            return f"OK, but nothing will be int8: {self.regions[0]} {runs} as Python" + (f"; {rest}" if rest else "")
        whole = "traceable" if not self.regions else f"traceable but for {_counted(len(self.regions), 'float region')}"
        return f"OK: {whole}" + (f"; {rest}" if rest else "")

    def __str__(self) -> str:
        return render(self)


def _row(row: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(row), "outcome": row.outcome.value}


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
