"""Everything the traceability benchmark asks of one model; a part that fails says so and the others go on."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from trace_subject import Subject, arguments
from trace_values import changes, difference, is_close, signal_to_noise, snapshot

import fxquant
from fxquant import pipeline
from fxquant.check.coverage import measure_coverage

# An int8 output is within quantization error when it is at most this much noisier than the reference model, which
# computes what quantization asks for in float, or when the reference itself is this good against eager.
_SLACK_DB = 3.0
_GOOD_DB = 20.0


def examine(subject: Subject, columns: tuple[str, ...]) -> dict[str, Any]:
    """One row of the table.

    Args:
        subject: the model.
        columns: of ``COLUMNS``.

    Returns:
        By column: ``ok``, another short text, or a number.
    """
    row: dict[str, Any] = {"name": subject.name, "library": subject.library}
    started = time.perf_counter()
    for column in columns:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                row.update(_COLUMNS[column](subject))
        except Exception as error:
            row[column] = f"fails: {_short(error)}"
    row["total_seconds"] = round(time.perf_counter() - started, 2)
    return row


def _run(model: Callable[..., Any], inputs: Any) -> Any:
    args, kwargs = arguments(inputs)
    torch.manual_seed(0)
    with torch.no_grad():
        return model(*args, **kwargs)


def _short(error: BaseException) -> str:
    places = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if f"{Path('torch')}/" not in frame.filename
    ]
    return f"{type(error).__name__} {' '.join(str(error).split())[:300]} @ {' '.join(places[-2:])}"


def _inputs(subject: Subject) -> Any:
    args, kwargs = arguments(subject.example())
    return kwargs or args


def _plain(subject: Subject) -> Mapping[str, Any]:
    """Plain torch.fx: traces, and computes the same at both sizes."""
    model = subject.model()
    graph = fx.symbolic_trace(model)
    return {"fx": _agrees(model, graph, subject)}


def _export(subject: Subject) -> Mapping[str, Any]:
    """torch.export of the example's size."""
    model = subject.model()
    args, kwargs = arguments(subject.example())
    program = torch.export.export(model, args, kwargs, strict=False)
    text = difference(_run(model, subject.example()), _run(program.module(), subject.example()))
    return {"export": "ok" if is_close(text) else text}


def _torch_ao(subject: Subject) -> Mapping[str, Any]:
    """torch.ao's prepare_fx: runs, and computes the same at both sizes."""
    quantization = __import__("torch.ao.quantization", fromlist=["quantize_fx"])
    model = subject.model()
    mapping = quantization.get_default_qconfig_mapping("x86")
    args, kwargs = arguments(subject.example())
    example = args or tuple(kwargs.values())
    observed = quantization.quantize_fx.prepare_fx(subject.model(), mapping, example)
    return {"torch.ao": _agrees(model, observed, subject)}


def _agrees(model: nn.Module, graph: nn.Module, subject: Subject) -> str:
    for title, inputs in (("", subject.example), ("second size: ", subject.other)):
        expected = _run(model, inputs())
        text = difference(expected, _run(graph, inputs()))
        if not is_close(text):
            return f"wrong: {title}{text}"
    return "ok"


def _capture(subject: Subject) -> Mapping[str, Any]:
    """fxquant's capture: the same at both sizes, the model as it was, coverage, and how long it takes."""
    model = subject.model()
    expected = _run(model, subject.example())
    expected_other = _run(subject.model(), subject.other())
    model = subject.model()
    before, began = snapshot(model), time.perf_counter()
    graph = pipeline.capture(model, _inputs(subject))
    seconds = time.perf_counter() - began
    changed = changes(before, snapshot(model))
    text = difference(expected, _run(graph, subject.example()))
    row: dict[str, Any] = {
        "capture": "ok" if is_close(text) else f"wrong: {text}",
        "nodes": len(graph.graph.nodes),
        "capture_seconds": round(seconds, 2),
        "float_parts": list(graph.state.capture_notes),
        "facts": len(graph.state.facts),
        "unchanged": "ok" if not changed else f"changed: {changed[0]}",
    }
    coverage = measure_coverage(graph, subject.model(), _inputs(subject), ())
    row["parameters"] = _share(coverage.int8_parameters, coverage.parameters)
    row["macs"] = _share(coverage.int8_macs, coverage.macs)
    began = time.perf_counter()
    again = difference(expected, _run(model, subject.example()))
    row["eager_seconds"] = round(time.perf_counter() - began, 3)
    if not is_close(again):
        row["unchanged"] = f"eager differs afterwards: {again}"
    try:
        text = difference(expected_other, _run(graph, subject.other()))
        row["second"] = "ok" if is_close(text) else f"wrong: {text}"
    except Exception as error:
        row["second"] = f"fails: {_short(error)}"
    return row


def _single(subject: Subject) -> Mapping[str, Any]:
    """fxquant's capture of an example with one row, whose graph computes the same for the example's rows."""
    rows, single = subject.first[0], replace(subject, first=(1, subject.first[1]))
    if rows == 1:
        return {"single": "ok"}
    expected = _run(subject.model(), subject.example())
    graph = pipeline.capture(subject.model(), _inputs(single))
    text = difference(expected, _run(graph, subject.example()))
    return {"single": "ok" if is_close(text) else f"wrong: {text}"}


def _int8(subject: Subject) -> Mapping[str, Any]:
    """prepare, calibrate, convert: dB of the reference model and of the quantized model against eager."""
    expected = _run(subject.model(), subject.example())
    observed = fxquant.prepare_fx(subject.model(), fxquant.get_default_qconfig_mapping(), _inputs(subject))
    _run(observed, subject.example())
    _run(observed, subject.other())
    reference = _run(fxquant.convert_to_reference_fx(observed), subject.example())
    quantized = _run(fxquant.convert_fx(observed), subject.example())
    wanted, got = signal_to_noise(expected, reference), signal_to_noise(expected, quantized)
    row: dict[str, Any] = {"reference_db": _rounded(wanted), "int8_db": _rounded(got)}
    if got is None:  # boxes are chosen by scores, so that their number changes
        return {**row, "int8": "ok"}
    good = got >= _GOOD_DB or (wanted is not None and got >= wanted - _SLACK_DB)
    return {**row, "int8": "ok" if good else f"wrong: {row['int8_db']} dB, reference {row['reference_db']} dB"}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _check(subject: Subject) -> Mapping[str, Any]:
    """The checker: how many findings, and whether one is an error that capture does not handle."""
    report = fxquant.check_traceable(subject.model(), _inputs(subject))
    return {
        "check": "ok"
        if not any(item.severity == "error" and not item.handled for item in report.findings)
        else "errors",
        "findings": len(report.findings),
        "check_seconds": round(report.seconds, 1),
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 3) if whole else None


_COLUMNS: Mapping[str, Callable[[Subject], Mapping[str, Any]]] = {
    "fx": _plain,
    "export": _export,
    "torch.ao": _torch_ao,
    "capture": _capture,
    "single": _single,
    "int8": _int8,
    "check": _check,
}
COLUMNS = tuple(_COLUMNS)
