"""Every way of failing: the finding and its line, what becomes of the model, and that the fix fixes it."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import broken_calls
import broken_effects
import broken_sizes
import broken_state
import broken_static_facts
import broken_tensor_numbers
import broken_tensor_values
import broken_unreached
import broken_whole
import other_calls
import other_circumstances
import other_containers
import other_decisions
import other_effects
import other_fixes
import other_gradients
import other_matches
import other_objects
import other_random
import other_state
import other_tensor_values
import other_ways
import pytest
import right_as_they_are
import torch
from case import Case, all_cases, expected
from torch import nn

from fxquant.capture.facts import FactKind
from fxquant.capture.inputs import split_inputs
from fxquant.check import Finding, FindingKind, Severity, TraceReport, check_traceable
from fxquant.check.compare import compare
from fxquant.check.kinds import MEANINGS, Rule

FILES = (
    broken_calls, broken_effects, broken_sizes, broken_state, broken_static_facts, broken_tensor_numbers,
    broken_tensor_values, broken_unreached, broken_whole, other_calls, other_circumstances, other_containers,
    other_decisions, other_effects, other_fixes, other_gradients, other_matches, other_objects, other_random,
    other_state, other_tensor_values, other_ways, right_as_they_are,
)  # fmt: skip
CASES = [case for case in all_cases() if case.__module__ in {file.__name__ for file in FILES}]


# Facts of the example that no change of the source removes; and what is wrong only where capture itself is.
ONLY_SEEN = {"static", "flag", "presence", "plain-tracing", "divergence"}


def _named(cases: list[type[Case]]) -> list[Any]:
    return [pytest.param(case, id=case.__name__) for case in cases]


def _check(make: Any, case: type[Case]) -> TraceReport:
    torch.manual_seed(0)
    return check_traceable(make().train(case.training), case.inputs())


def outcome_of(report: TraceReport) -> str:
    """``whole``, ``region``, ``limited`` or ``refused``, see ``Case``."""
    if not report.captured:
        return "refused"
    return "limited" if not report.proof.holds else "region" if report.regions else "whole"


@pytest.mark.parametrize("case", _named(CASES))
def test_before_is_found(case: type[Case]) -> None:
    report = _check(case.before, case)
    found = {(item.kind.value, item.line) for item in report.findings}
    assert expected(case) <= found and set(case.of_model) <= {kind for kind, _ in found}, str(report)
    serious = {(item.kind.value, item.line) for item in report.findings if item.severity is not Severity.INFO}
    assert {item for item in serious if item[1]} <= expected(case), str(report)
    assert outcome_of(report) == case.outcome, str(report)
    for item in report.findings:
        assert item.message and item.fix and "{" not in item.message.replace(item.expression, "")
    assert str(report) and report.to_json()


@pytest.mark.parametrize("case", _named([case for case in CASES if case.after is not None]))
def test_after_passes(case: type[Case]) -> None:
    assert case.after is not None
    report = _check(case.after, case)
    assert report.ok and report.proof.holds and not report.regions, str(report)
    kinds = {kind for kind, _ in expected(case)} | set(case.of_model)
    assert not {item.kind.value for item in report.findings if item.severity is not Severity.INFO} & kinds, str(report)
    if case.same:
        _require_same(case.before(), case.after(), case)


@pytest.mark.parametrize("case", _named([case for case in CASES if case.applied]))
def test_the_edit_of_the_finding_passes(case: type[Case], tmp_path: Path) -> None:
    report = _check(case.before, case)
    edited = [item for item in report.findings if (item.kind.value, item.line) in expected(case) and item.edit]
    assert edited, str(report)
    module = _applied(case, edited[0], tmp_path)
    changed = vars(module)[case.__name__]
    report = _check(changed.before, case)
    assert report.ok and not report.regions, str(report)
    kinds = {kind for kind, _ in expected(case)}
    assert not {item.kind.value for item in report.findings if item.severity is not Severity.INFO} & kinds, str(report)
    if case.same:
        _require_same(case.before(), changed.before(), case)


def test_every_kind_has_a_meaning_and_facts_are_kinds() -> None:
    assert set(MEANINGS) == set(FindingKind)
    assert {kind.value for kind in FactKind} <= {kind.value for kind in FindingKind}


def test_kinds_that_call_for_a_change_have_a_model_before_and_after_it() -> None:
    paired = {kind for case in CASES if case.after is not None for kind, _ in expected(case)}
    paired |= {kind for case in CASES if case.after is not None for kind in case.of_model}
    needed = {kind.value for kind, meaning in MEANINGS.items() if meaning.rule is not Rule.NOTE}
    assert needed - paired == ONLY_SEEN


def test_there_are_enough_models() -> None:
    assert len(CASES) >= 60


def _applied(case: type[Case], finding: Finding, folder: Path) -> ModuleType:
    """The file of a case with the edit of a finding applied, imported."""
    edit = finding.edit
    source = inspect.getsourcefile(case)
    assert edit is not None and source is not None and Path(edit.file).samefile(source)
    lines = Path(source).read_text().splitlines()
    lines[edit.first_line - 1 : edit.last_line] = edit.text.split("\n")
    path = folder / f"edited_{case.__name__}.py"
    path.write_text("\n".join(lines))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _require_same(before: nn.Module, after: nn.Module, case: type[Case]) -> None:
    """Both compute the same with the same weights."""
    after.load_state_dict(before.state_dict(), strict=False)
    args, kwargs = split_inputs(case.inputs())
    copies = [item.clone() if isinstance(item, torch.Tensor) else item for item in args]
    with torch.no_grad():
        first = before.train(case.training)(*copies, **kwargs)
        second = after.train(case.training)(*args, **kwargs)
    assert compare(first, second).outcome.holds
