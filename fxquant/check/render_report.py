"""A report as text: a verdict, the findings by cause with the code, coverage, and what to do first."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from fxquant.check.compare import Outcome
from fxquant.check.finding import Finding, Severity
from fxquant.check.kinds import MEANINGS

if TYPE_CHECKING:
    from fxquant.check.report import TraceReport

_WIDTH = 110
_MOST_IN_GROUP = 5
_MOST_HELD_BACK = 6
_MARKS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "info"}


def render(report: TraceReport) -> str:
    """The report as text."""
    parts = [
        _heading(report),
        *_findings(report),
        _proof(report),
        _coverage(report),
        _first_steps(report),
    ]
    return "\n\n".join(part for part in parts if part)


def _heading(report: TraceReport) -> str:
    lines = [f"{report.model} on {report.inputs or 'its example inputs'}", report.verdict]
    if report.plain_tracing:
        lines.append(f"plain torch.fx: {report.plain_tracing}")
    return "\n".join(lines)


def _findings(report: TraceReport) -> Iterator[str]:
    shown = [item for item in report.findings if item.severity is not Severity.INFO]
    for _, items in groupby(sorted(shown, key=lambda item: _order(item, report)), key=lambda item: _group(item)):
        yield _group_text(list(items))
    facts = report.of(Severity.INFO)
    if facts:
        title = "1 fact of the example is" if len(facts) == 1 else f"{len(facts)} facts of the example are"
        lines = [f"{title} built in, or good to know:"]
        lines += [line for item in facts[: 2 * _MOST_IN_GROUP] for line in _fact_lines(item)]
        if len(facts) > 2 * _MOST_IN_GROUP:
            lines.append(f"  and {len(facts) - 2 * _MOST_IN_GROUP} more in .findings")
        yield "\n".join(lines)


def _group(item: Finding) -> tuple[bool, Severity, str]:
    return item.is_unhandled_error, item.severity, item.kind.value


def _order(item: Finding, report: TraceReport) -> tuple[bool, int, int, int]:
    first = {other.kind: index for index, other in reversed(list(enumerate(report.findings)))}
    return (
        not item.is_unhandled_error,
        list(Severity).index(item.severity),
        first[item.kind],
        report.findings.index(item),
    )


def _group_text(items: list[Finding]) -> str:
    first = items[0]
    state = "handled" if first.severity is Severity.ERROR and first.handled else _MARKS[first.severity]
    count = f" ({len(items)})" if len(items) > 1 else ""
    lines = [f"[{state}] {MEANINGS[first.kind].title}{count}"]
    for item in items[:_MOST_IN_GROUP]:
        lines += _finding_lines(item)
    if len(items) > _MOST_IN_GROUP:
        rest = ", ".join(_place(item) for item in items[_MOST_IN_GROUP : 3 * _MOST_IN_GROUP])
        more = " ..." if len(items) > 3 * _MOST_IN_GROUP else ""
        lines.append(f"  also at {rest}{more}")
    return "\n".join(lines)


def _fact_lines(item: Finding) -> list[str]:
    title = MEANINGS[item.kind].title
    remark = f"{title}: {item.handled}" if item.handled else title
    return [*_wrapped(f"{_place(item)}  {item.code or item.message}", "  "), *_wrapped(remark, "    ")]


def _finding_lines(item: Finding) -> list[str]:
    inside = f" in {item.module_path}" if item.module_path else ""
    lines = [f"  {_place(item)}{inside}"] if item.file else ([f"  {item.module_path}"] if item.module_path else [])
    if item.code:
        lines.append(f"    > {item.code}")
    lines += _wrapped(item.message, "    ")
    if item.handled:
        lines += _wrapped(f"handled: {item.handled}", "    ")
    return [*lines, *_wrapped(f"fix: {item.fix}", "    ")]


def _proof(report: TraceReport) -> str:
    compared = [row for row in report.proof.rows if row.outcome is not Outcome.SKIPPED]
    if not compared:
        return ""
    right = [row for row in compared if row.outcome.holds]
    exact = sum(row.outcome is Outcome.EXACT for row in right)
    lines = [f"Compared with eager {len(compared)} times: {exact} exact, {len(right) - exact} but for rounding"]
    lines[0] += f", {len(compared) - len(right)} not equal" if len(right) < len(compared) else ""
    lines += _wrapped("equal on " + "; ".join(row.name for row in right), "  ") if right else []
    for row in compared:
        if not row.outcome.holds:
            lines += _wrapped(f"NOT {row}{'' if row.required else ' (matters for training only)'}", "  ")
    for row in report.proof.rows:
        if row.group == "given" and row.outcome is Outcome.SKIPPED:
            lines += _wrapped(f"not compared: {row}", "  ")
    return "\n".join(lines)


def _coverage(report: TraceReport) -> str:
    coverage = report.coverage
    if coverage.note:
        return f"Coverage: {coverage.note}"
    parameters = f"{100 * coverage.parameter_share:.1f} % of {_number(coverage.parameters)} parameters"
    macs = f"{100 * coverage.mac_share:.1f} % of {_number(coverage.macs)} multiply-accumulates"
    lines = [f"Coverage: {parameters} and {macs} will be int8"]
    weighty = [row for row in coverage.held_back if row.macs or row.parameters]
    for row in weighty[:_MOST_HELD_BACK]:
        count = f" ×{row.count}" if row.count > 1 else ""
        sizes = [f"{_number(row.parameters)} parameters" if row.parameters else ""]
        sizes += [f"{100 * row.macs / coverage.macs:.1f} % of the MACs" if row.macs and coverage.macs else ""]
        lines += _wrapped(f"float: {row.name}{count}, {', '.join(filter(None, sizes))}: {row.reason}", "  ")
    return "\n".join(lines)


def _first_steps(report: TraceReport) -> str:
    if report.errors:
        first = report.errors[0]
        more = f" ({len(report.errors) - 1} more after it)" if len(report.errors) > 1 else ""
        return "\n".join(_wrapped(f"Do first{more}: {_place(first)}: {first.fix}".replace(": :", ":"), ""))
    lossy = [item for item in report.of(Severity.ERROR) if "in float" in item.handled]
    if lossy and report.coverage.mac_share < 0.9:
        return "\n".join(_wrapped(f"Do first, to have more in int8: {_place(lossy[0])}: {lossy[0].fix}", ""))
    warnings = report.of(Severity.WARNING)
    if warnings:
        return "\n".join(_wrapped(f"Look at first: {_place(warnings[0])}: {warnings[0].fix}", ""))
    also = "; the fixes above make it fit for plain torch.fx too" if report.of(Severity.ERROR) else ""
    takes = "prepare_fx(model, get_default_qconfig_mapping(), example_inputs) takes this model"
    return "\n".join(_wrapped(f"Do first: nothing has to change: {takes}{also}", ""))


def _place(item: Finding) -> str:
    return f"{os.path.basename(item.file)}:{item.line}" if item.file else item.module_path or "the model"


def _wrapped(text: str, indentation: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=indentation, subsequent_indent=indentation + "  ")


def _number(count: int) -> str:
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return str(count)
