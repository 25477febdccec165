"""From what was seen and what was proven to findings: how bad each is, and whether the graph is right nevertheless."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from fxquant.capture.facts import CHECKED, NOT_RAISED
from fxquant.check.compare import Outcome
from fxquant.check.find_divergence import Divergence
from fxquant.check.finding import Finding, FindingKind, Severity
from fxquant.check.fixes import fix_for
from fxquant.check.float_regions import FloatRegion, covering
from fxquant.check.kinds import MEANINGS, Rule
from fxquant.check.merge import DECIDES
from fxquant.check.observation import Observation, Place
from fxquant.check.proof import Proof, ProofRow
from fxquant.check.source_tree import Sources
from fxquant.check.try_edit import EditTrial
from fxquant.check.user_frames import expression_text, is_installed

_K = FindingKind
# Groups of comparisons that must hold for a kind to be handled; of the last, there must be one, unless it is of seeds.
_EVIDENCE = {
    _K.TORCH_RANDOM: ("example", "state", "seed"),
    _K.ALWAYS_DROPOUT: ("example", "state", "seed"),
    _K.PYTHON_RANDOM: ("example", "state", "seed"),
    _K.CUSTOM_FUNCTION: ("example", "gradients"),
    _K.GRAD_MODE: ("example", "gradients"),
    _K.AUTOCAST: ("example", "batch", "values"),
    _K.BUFFER_UPDATE: ("example", "state"),
    _K.TENSOR_BRANCH: ("example", "batch", "mask", "values"),
    _K.TENSOR_NUMBER: ("example", "batch", "mask", "values"),
    _K.TENSOR_NUMPY: ("example", "batch", "mask", "values"),
}
# What such comparisons show where capture recorded nothing: it was never asked for a value, so it did not build one in.
_ALIKE = (
    "let each way give a tensor, of one number of dimensions, in the place of None or a container; or keep what "
    "decides in float with what follows from it: PrepareCustomConfig().set_non_traceable_module_names([its path])"
)
_PROVEN = {
    _K.PYTHON_RANDOM: "drawn anew at every call: equal to eager under every seed",
    _K.CUSTOM_FUNCTION: "gradients are those of eager",
    _K.GRAD_MODE: "gradients are those of eager",
    _K.AUTOCAST: "recorded: results are those of eager",
    _K.BUFFER_UPDATE: "the graph updates it too: equal to eager call after call",
    _K.TENSOR_BRANCH: "recorded as an operation: exact for other values",
    _K.TENSOR_NUMBER: "recorded as an operation: exact for other values",
    _K.TENSOR_NUMPY: "recorded as an operation: exact for other values",
}
_AS_PYTHON = "runs as Python, in float: "
# Of errors that code would catch, and that the example does not raise.
_CATCHES = (
    "the code around `{expression}` catches what it raises; for the example it raises nothing, and a graph has that "
    "way only"
)
# Of errors that the trace alone runs into.
_NOT_RECORDED = "`{expression}` runs, and cannot be recorded: {value}"
# Of what asks for a number that was drawn on another line.
_ASKS_FOR_DRAWN = "`{expression}` asks Python for a number that was drawn in Python; a graph would keep that answer"
# Of a size that plain tracing stops at, and that capture had no need to make a number of.
_STOPPED_AT_SIZE = "`{expression}` makes a Python number of a size, which plain tracing cannot"


@dataclass(frozen=True)
class Evidence:
    """What findings are judged by.

    Attributes:
        captured: whether there is a graph.
        training: whether the model is in training mode.
        proof: the comparisons, empty when there is no graph.
        regions: parts of the graph that are kept in float.
        sources: parsed files.
        trial: tells whether the change that a fix suggests runs.
    """

    captured: bool
    training: bool
    proof: Proof
    regions: tuple[FloatRegion, ...]
    sources: Sources
    trial: EditTrial


def judge(seen: Iterable[Observation], evidence: Evidence) -> list[Finding]:
    """Findings, unhandled errors first."""
    findings = [found for item in seen if _tells(item, found := _finding(item, evidence), evidence)]
    findings = list(_told_once(findings))
    findings += _unexplained(evidence, findings)
    findings += _given_by_values(evidence, findings)
    order = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}
    return sorted(findings, key=lambda item: (not item.is_unhandled_error, order[item.severity]))


def _told_once(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Findings without those on a line that an earlier one's fix mends too."""
    told = set[tuple[FindingKind, str, int, str]]()
    for item in findings:
        key = item.kind, item.file, item.line, item.fix
        if not item.expression or key not in told:
            yield item
        told.add(key)


def _finding(seen: Observation, evidence: Evidence) -> Finding:
    severity, handled, remark = _verdict(seen, evidence)
    seen = replace(seen, place=_without_body(seen.place, evidence.sources))
    meaning, place = MEANINGS[seen.kind], seen.place
    shown = place.expression or place.code or (f"line {place.line}" if place.line else seen.value)
    value = seen.changed
    template = _STOPPED_AT_SIZE if seen.kind is _K.SIZE and not value else meaning.message
    if seen.kind is _K.PYTHON_RANDOM and value == DECIDES:
        template = _ASKS_FOR_DRAWN
    if seen.kind is _K.CAUGHT_ERROR and value == NOT_RAISED:
        template = _CATCHES
    if seen.kind is _K.ERROR and evidence.captured and place.expression:
        template = _NOT_RECORDED
    if seen.inside and meaning.rule is Rule.GUARD:
        template = f"{seen.inside} of torch.nn, which `{{expression}}` calls, builds in a fact of the example"
    message = template.format(expression=" ".join(shown.split()), value=value or "as during capture")
    message = message.replace(" has 1 elements", " has 1 element")
    fix = fix_for(seen, evidence.sources, evidence.trial)
    return Finding(
        kind=seen.kind,
        severity=severity,
        file=place.file,
        line=place.line,
        code=place.code,
        module_path=place.module_path,
        message=f"{message}{remark}",
        fix=fix.text,
        handled=handled,
        expression=place.expression,
        edit=fix.edit,
    )


def _tells(seen: Observation, finding: Finding, evidence: Evidence) -> bool:
    """Whether a finding says anything to the user: not what torch.nn does by itself and what does not matter."""
    if MEANINGS[seen.kind].rule is not Rule.GUARD or finding.severity is not Severity.INFO:
        return True
    statement = _whole_statement(seen.place, evidence.sources) if seen.kind is _K.LENGTH else None
    of_region = statement is not None and covering(evidence.regions, seen.place) is not None  # of its results
    return not seen.inside and not of_region


def _without_body(place: Place, sources: Sources) -> Place:
    """The place, where its expression is a whole ``if`` or loop: what that asks for alone; of a pattern, all of it."""
    file = sources.file(place.file)
    node = file.expression_like(place.line, place.expression) if place.expression else None
    patterns = [above for above in file.parents(node) if isinstance(above, ast.pattern)] if node is not None else []
    if patterns:
        return replace(place, expression=f"case {file.source_of(patterns[-1])}")
    if not isinstance(_whole_statement(place, sources), (ast.If, ast.While, ast.For, ast.With)):
        return place
    return replace(place, expression=expression_text(file, place.line, None))


def _whole_statement(place: Place, sources: Sources) -> ast.stmt | None:
    """The statement at a place, where its expression is all of it."""
    file = sources.file(place.file)
    statement = file.statement_at(place.line) if place.expression else None
    whole = statement is not None and place.expression.split() == file.source_of(statement).split()
    return statement if whole else None


def _verdict(seen: Observation, evidence: Evidence) -> tuple[Severity, str, str]:
    """Severity, how it is handled, and what to add to the message."""
    rule = MEANINGS[seen.kind].rule
    if seen.mode == "training":
        return Severity.INFO, "does not happen in eval mode", ", in training mode"
    if rule is Rule.NOTE:
        return Severity.INFO, seen.handled or MEANINGS[seen.kind].recorded, ""
    if rule is Rule.DOUBT:
        return _verdict_of_doubt(seen, evidence)
    if rule is Rule.GUARD:
        return _verdict_of_guard(seen, evidence)
    return Severity.ERROR, _how_handled(seen, evidence, rule), ""


def _verdict_of_doubt(seen: Observation, evidence: Evidence) -> tuple[Severity, str, str]:
    if seen.kind is FindingKind.HIDDEN_CASE:
        rows = evidence.proof.group("mask")
        if rows and all(row.outcome.holds for row in rows):
            return Severity.INFO, f"shown to be right: {_names(rows)}", ""
    if seen.kind is FindingKind.UNREACHED and is_installed(seen.place.file):
        return Severity.INFO, seen.handled, ""
    return Severity.WARNING, seen.handled, ""


def _verdict_of_guard(seen: Observation, evidence: Evidence) -> tuple[Severity, str, str]:
    if seen.kind is FindingKind.TRAINING and evidence.training:
        right = all(row.outcome.holds for row in evidence.proof.group("mode"))
        handled = "what prepare_qat_fx makes of the model follows train() and eval()"
        return Severity.ERROR, handled if right and evidence.captured else "", ""
    region = covering(evidence.regions, seen.place)
    if region is not None:
        return Severity.INFO, f"inside {region}, which is kept in float", ""
    rows = evidence.proof.rows_with_another_answer(seen)
    wrong = [row for row in rows if row.outcome is Outcome.DIFFERS]
    if wrong:
        return Severity.ERROR, "", f"; the graph is wrong for {_names(wrong)}"
    broken = [row for row in rows if not row.outcome.holds]
    if broken:
        handled = CHECKED if all(r.outcome is Outcome.REFUSED for r in broken) else ""
        return Severity.WARNING, seen.handled or handled, f"; the graph does not take {_names(broken)}"
    if rows:
        return Severity.INFO, seen.handled or f"does not matter: exact for {_names(rows)}", ""
    return Severity.INFO, seen.handled or _held(evidence), ""


def _held(evidence: Evidence) -> str:
    count = sum(row.outcome.holds for row in evidence.proof.rows)
    return f"held in {count} comparisons" if count else ""


def _how_handled(seen: Observation, evidence: Evidence, rule: Rule) -> str:
    """How the graph is right in spite of it, "" when it is not, or when nothing shows that it is."""
    if not evidence.captured:
        return ""
    region = covering(evidence.regions, seen.place)
    if region is not None:
        parts = [part for item in evidence.regions for part in (item.title, repr(item.module_path))]
        of_smaller = seen.handled.startswith(_AS_PYTHON) and not any(part in seen.handled for part in parts)
        return f"{_AS_PYTHON}{region}" if of_smaller or not seen.handled else seen.handled
    if not evidence.proof.comparable:
        return seen.handled
    groups = _EVIDENCE.get(seen.kind, ("example", "state") if rule is Rule.LOST else ("example",))
    rows = evidence.proof.group(*groups)
    safe = all(row.outcome.holds or row.outcome is Outcome.REFUSED for row in rows)
    if not safe or (groups[-1] != "seed" and not evidence.proof.group(groups[-1])):
        return ""
    return seen.handled or _PROVEN.get(seen.kind, "") or (MEANINGS[seen.kind].recorded if rule is Rule.RECORDED else "")


def _unexplained(evidence: Evidence, findings: list[Finding]) -> list[Finding]:
    """Findings for comparisons that failed although nothing that was seen explains it."""
    if any(item.is_unhandled_error for item in findings):
        return []
    blamed = [item for item in findings if item.severity is not Severity.INFO and not item.handled]
    found = []
    for row in evidence.proof.rows:
        if row.outcome in (Outcome.DIFFERS, Outcome.FAILS) and row.required:
            if row.outcome is Outcome.FAILS and blamed:
                continue
            found.append(_divergence(row, evidence))
    refused = [row for row in evidence.proof.rows if row.outcome is Outcome.REFUSED and row.required]
    if refused and not found and not any(item.severity is Severity.WARNING for item in findings):
        return _refused(refused, evidence, findings)
    return found[:1]


def _refused(rows: list[ProofRow], evidence: Evidence, findings: list[Finding]) -> list[Finding]:
    """A finding for inputs that eager takes and the graph does not: that of the line that asks, else one of its own."""
    place = _place_of(rows[0].divergence, evidence)
    for index, item in enumerate(findings):
        if MEANINGS[item.kind].rule is Rule.GUARD and place.line and (item.file, item.line) == (place.file, place.line):
            message = f"{item.message}; the graph does not take {_names(rows)}"
            findings[index] = replace(item, severity=Severity.WARNING, message=message)
            return []
    value = f"the graph refuses {_names(rows)}, which eager takes: {rows[0].detail}"
    at = place.file, place.line, place.code, place.module_path
    return [Finding(_K.HIDDEN_CASE, Severity.WARNING, *at, value, _ALIKE)]


def _given_by_values(evidence: Evidence, findings: list[Finding]) -> list[Finding]:
    """Findings for values that decide whether code gives None, a tensor or a container, where no other says so."""
    if any(item.kind is _K.HIDDEN_CASE and item.fix == _ALIKE for item in findings):
        return []
    found = []
    for region in (region for region in evidence.regions if region.gives_others):
        places = [Place(item.file, item.line, item.code, item.module_path) for item in findings]
        place = next(filter(region.covers, places), None)
        if place is not None:
            value = (
                f"values decide whether {region} {'give' if region.is_plural else 'gives'} None, a tensor or a "
                "container; the graph takes what the example shows, and raises an error for the others"
            )
            found.append(
                Finding(
                    _K.HIDDEN_CASE,
                    Severity.WARNING,
                    place.file,
                    place.line,
                    place.code,
                    place.module_path,
                    value,
                    _ALIKE,
                )
            )
    return found


def _place_of(at: Divergence | None, evidence: Evidence) -> Place:
    if at is None:
        return Place()
    code = evidence.sources.file(at.file).line(at.line) if at.file else ""
    return Place(at.file, at.line, code, at.module_path)


def _divergence(row: ProofRow, evidence: Evidence) -> Finding:
    at = row.divergence
    place = _place_of(at, evidence)
    value = f"the graph and eager part on {row.name}: {row.detail or row.outcome}"
    if at is not None:
        value += f", first at node {at.node}"
    baked = at is not None and "tensor_constant" in at.node and row.group in ("batch", "size", "given")
    seen = Observation(FindingKind.SIZE_CONSTANT if baked else FindingKind.DIVERGENCE, place, value)
    is_wrong = row.outcome is Outcome.DIFFERS or row.group == "example"
    severity = Severity.ERROR if is_wrong else Severity.WARNING
    fix = fix_for(seen, evidence.sources, evidence.trial)
    return Finding(seen.kind, severity, place.file, place.line, place.code, place.module_path, value, fix.text, "")


def _names(rows: Iterable[ProofRow]) -> str:
    names = [row.name for row in rows]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
