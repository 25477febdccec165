"""Which models can be captured: torchvision, transformers and timm, by plain fx, torch.export, torch.ao and fxquant.

    python benchmarks/traceability.py --suite timm --only resnet18,levit_128s
    python benchmarks/traceability.py --suite transformers --columns capture,int8 --json rows.json
    python benchmarks/traceability.py --show rows.json more.json

Models run in a process of their own, which is started again after a crash or when a model takes too long. With
``--json`` rows are kept as they come, so that a run can go on where another stopped: models whose columns are known are
passed over.
"""

from __future__ import annotations

import argparse
import importlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from report import print_machine, print_table
from trace_one import COLUMNS, examine
from trace_subject import Subject

SUITES = ("torchvision", "transformers", "timm")


def subjects(suites: Sequence[str], only: Sequence[str]) -> list[Subject]:
    """The models asked for."""
    found = [item for suite in suites for item in importlib.import_module(f"trace_{suite}").SUBJECTS]
    return [item for item in found if not only or item.name in only]


class Worker:
    """A process that examines one model after the other.

    Args:
        columns: what is examined.
        timeout: seconds for one model.
    """

    def __init__(self, columns: Sequence[str], timeout: float) -> None:
        self.columns = columns
        self.timeout = timeout
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()

    def examine(self, subject: Subject, columns: Sequence[str]) -> dict[str, Any]:
        """One row; what the process could not finish is named in it."""
        row: dict[str, Any] = {"name": subject.name, "library": subject.library}
        for column in columns:
            row.update(self._ask(subject, column))
        return row

    def _ask(self, subject: Subject, column: str) -> dict[str, Any]:
        process = self._running()
        assert process.stdin is not None
        process.stdin.write(json.dumps([subject.library, subject.name, column]) + "\n")
        process.stdin.flush()
        try:
            line = self._lines.get(timeout=self.timeout)
        except queue.Empty:
            self.stop()
            return {column: f"fails: more than {self.timeout:.0f} s"}
        if not line:
            self.stop()
            return {column: f"fails: the process ended with {process.wait()}"}
        found: dict[str, Any] = json.loads(line)
        return found

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            command = [sys.executable, __file__, "--worker"]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            self._lines = queue.Queue()
            threading.Thread(target=_forward, args=(self._process, self._lines), daemon=True).start()
        return self._process

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process = None


def _forward(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    """Pass on what a process prints, and "" when it ends."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            lines.put(line)
    lines.put("")


def work() -> None:
    """Examine what standard input asks for; one line of JSON each."""
    for line in sys.stdin:
        library, name, column = json.loads(line)
        (subject,) = subjects([library], [name])
        print("\n" + json.dumps(examine(subject, (column,))), flush=True)


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Examine the models asked for; returns all rows known."""
    rows = _read(arguments.json)
    worker = Worker(arguments.columns, arguments.timeout)
    for subject in subjects(arguments.suite, arguments.only):
        row = rows.setdefault((subject.library, subject.name), {})
        missing = [column for column in arguments.columns if column not in row or arguments.again]
        if missing:
            row.update(worker.examine(subject, missing))
            print("  ".join(str(row.get(key, "-")) for key in ("name", *arguments.columns)), flush=True)
            _write(arguments.json, rows.values())
    worker.stop()
    return list(rows.values())


def _read(path: Path | None) -> dict[tuple[str, str], dict[str, Any]]:
    if path is None or not path.exists():
        return {}
    return {(row["library"], row["name"]): row for row in json.loads(path.read_text(encoding="utf-8"))}


def _merged(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Rows of several files; of one model, columns of later files take the place of earlier ones."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for path in paths:
        for key, row in _read(path).items():
            rows[key] = {**rows.get(key, {}), **row}
    return list(rows.values())


def _write(path: Path | None, rows: Iterable[dict[str, Any]]) -> None:
    if path is not None:
        path.write_text(json.dumps([row for row in rows if row], indent=1) + "\n", encoding="utf-8")


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table for each library, and one of counts."""
    cells = ("fx", "export", "torch.ao", "capture", "second", "single", "unchanged", "int8", "int8_db", "reference_db",
             "parameters", "macs", "facts", "findings", "float_parts", "eager_seconds", "capture_seconds")  # fmt: skip
    headers = ("model", "fx", "export", "torch.ao", "capture", "second size", "from one row", "unchanged", "int8", "dB",
               "reference dB", "parameters", "MACs", "facts", "findings", "float parts", "eager s",
               "capture s")  # fmt: skip
    for suite in SUITES:
        found = [row for row in rows if row["library"] == suite]
        if found:
            print_table(suite, headers, [[row["name"], *(_cell(row.get(name)) for name in cells)] for row in found])
    counted = ("fx", "export", "torch.ao", "capture", "second", "single", "unchanged", "int8")
    table = []
    for suite in SUITES:
        found = [row for row in rows if row["library"] == suite]
        table.append([suite, len(found), *(sum(row.get(name) == "ok" for row in found) for name in counted)])
    print_table("models that pass", ("library", "models", *counted), table)


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return len(value)
    return value.partition(":")[0] if isinstance(value, str) else value


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    comma = lambda text: tuple(text.split(","))  # noqa: E731
    parser.add_argument("--suite", type=comma, default=SUITES, help="torchvision, transformers, timm")
    parser.add_argument("--only", type=comma, default=(), help="names of models")
    parser.add_argument("--columns", type=comma, default=COLUMNS, help=", ".join(COLUMNS))
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one column of one model")
    parser.add_argument("--json", type=Path, help="file that rows are kept in")
    parser.add_argument("--again", action="store_true", help="also what the file has")
    parser.add_argument("--show", type=Path, nargs="+", help="print the table of files, merged, and run nothing")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a run beside another one takes thirty times as long with more
    if arguments.worker:
        return work()
    print_machine()
    show(_merged(arguments.show) if arguments.show else run(arguments))
    return None


if __name__ == "__main__":
    main()
