"""Write docs/checking.md: the text below, with the checker's real output and the table of kinds.

python docs/make_checking.py            # writes the file
python docs/make_checking.py --check    # exits with 1 when the file is stale
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch

from fxquant.check.finding import FindingKind
from fxquant.check.kinds import MEANINGS, Rule
from fxquant.cli import main as run_command

TARGET = Path(__file__).with_name("checking.md")
EXAMPLE = Path(__file__).with_name("examples") / "problems.py"
_TEMPLATE = Path(__file__).with_name("checking.template.md")

_JUDGED = {
    Rule.GUARD: "info while it held in every comparison; warning where the graph refuses other inputs; error where it "
    "would be wrong for them",
    Rule.LOST: "error; handled when a comparison shows that the graph is right nevertheless",
    Rule.RECORDED: "error for plain tracing; capture handles it",
    Rule.NOTE: "info",
    Rule.DOUBT: "warning",
}

_DEALT_WITH = {
    Rule.GUARD: "built in; where inputs can break it, checked when the graph runs, or a float region",
    Rule.LOST: "recorded where a node can do it, else a float region, else refused",
    Rule.RECORDED: "recorded",
    Rule.NOTE: "recorded",
    Rule.DOUBT: "reported",
}


def render() -> str:
    """The page."""
    page = _TEMPLATE.read_text()
    parts = {
        "<!-- SOURCE -->": _block("python", _from_class("Gate", "Fixed")),
        "<!-- REPORT -->": _block("text", report_of("Classifier")),
        "<!-- FIXED -->": _block("python", _from_class("Fixed", "Refused").split("\n\n\n")[0]),
        "<!-- FIXED REPORT -->": _block("text", report_of("Fixed")),
        "<!-- REFUSED -->": _block("python", _from_class("Refused", "example").split("\n\n\n")[0]),
        "<!-- REFUSED REPORT -->": _block("text", report_of("Refused")),
        "<!-- KINDS -->": "\n".join(_table()),
    }
    for mark, text in parts.items():
        page = page.replace(mark, text)
    return page


def report_of(name: str) -> str:
    """What the command prints for a model of the example."""
    text = io.StringIO()
    arguments = ["check", f"{EXAMPLE}:{name}", "--inputs", f"{EXAMPLE}:example"]
    with contextlib.redirect_stdout(text), torch.random.fork_rng(devices=[]):
        run_command(arguments)
    return text.getvalue().rstrip()


def _from_class(first: str, following: str) -> str:
    source = EXAMPLE.read_text()
    start = source.index(f"class {first}(")
    ends = [source.find(f"\n\n\n{word} {following}(", start) for word in ("class", "def")]
    return source[start : next((end for end in ends if end >= 0), len(source))].strip()


def _block(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _table() -> Iterator[str]:
    yield "| kind | what it is | severity | how fxquant deals with it |"
    yield "| --- | --- | --- | --- |"
    for kind in FindingKind:
        meaning = MEANINGS[kind]
        dealt_with = meaning.recorded or _DEALT_WITH[meaning.rule]
        yield f"| `{kind.value}` | {meaning.title} | {_JUDGED[meaning.rule]} | {dealt_with} |"


def load_example() -> ModuleType:
    """The module with the example's models."""
    spec = importlib.util.spec_from_file_location(EXAMPLE.stem, EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main() -> int:
    """Write the page, or compare it with what it should be."""
    page = render()
    if "--check" in sys.argv:
        return int(TARGET.read_text() != page)
    TARGET.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
