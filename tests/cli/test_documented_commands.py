"""docs/command_line.md shows what its commands print."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fxquant import cli

_DOCS = Path(__file__).resolve().parents[2] / "docs"
# What differs between runs and machines: numbers, and what a CPU asks of weights.
_VARYING = re.compile(r"\d[\d.,]*|,? ?weight pairs within ±128|weights limited in pairs[^\"\n]*")
# Under the headers of tables; as long as the longest number, which depends on how fast the machine is.
_RULE = re.compile(r"-{3,}")


def _blocks(text: str) -> list[list[str]]:
    found = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [
        [_RULE.sub("---", " ".join(_VARYING.sub("#", line).split())) for line in block.split("\n")] for block in found
    ]


@pytest.fixture
def execute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str], Path], str]:
    """Runs a command in this process, in a folder, and returns what it prints."""
    monkeypatch.setenv("BROWSER", "true")
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(words: list[str], folder: Path) -> str:
        assert words[0] == "fxquant"
        monkeypatch.chdir(folder)
        status = cli.main(words[1:])
        printed = "".join(capsys.readouterr())
        assert status == 0, printed
        return printed

    return run


def test_the_commands_print_what_the_page_says(execute: Callable[[list[str], Path], str]) -> None:
    """Tables that are sorted by what is measured hold mostly the same rows; all else is the same word by word."""
    page = (_DOCS / "command_line.md").read_text()
    now = runpy.run_path(str(_DOCS / "make_command_line.py"))["render"](page, execute)
    assert now.count("```console") < 10
    for shown, made in zip(_blocks(page), _blocks(now), strict=True):
        assert shown[0] == made[0]
        if "--slowest" in shown[0]:
            assert all(any(line.startswith(word) for line in made) for word in ("kernel", "operator", "outcome"))
        elif "profile" in shown[0] or "compare" in shown[0]:
            rows = {line.split()[0] for line in shown if line}
            assert len(rows & {line.split()[0] for line in made if line}) > 0.5 * len(rows)
        else:
            assert made == shown
