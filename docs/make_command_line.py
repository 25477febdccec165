"""Run the commands of ``command_line.md`` and write what they print into it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

PAGE = Path(__file__).with_name("command_line.md")
_BLOCK = re.compile(r"```(console|python)\n(.*?)```", re.DOTALL)


Run = Callable[[list[str], Path], str]


def render(text: str, execute: Run | None = None) -> str:
    """The page with the output of its commands made anew. They run in one folder that holds the first Python block.

    Args:
        text: the page.
        execute: runs the words of a command in a folder and returns what it prints; None for processes of their own.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        execute = execute or _in_processes(folder)
        is_first = True

        def run(block: re.Match[str]) -> str:
            nonlocal is_first
            kind, body = block.groups()
            if kind == "python":
                if is_first:
                    (folder / "net.py").write_text(body)
                is_first = False
                return block.group()
            command = body.split("\n")[0].removeprefix("$ ")
            printed = execute(shlex.split(command), folder).replace(f"{folder}{os.sep}", "")
            return f"```console\n$ {command}\n{printed}```"

        return _BLOCK.sub(run, text)


def _in_processes(folder: Path) -> Run:
    environment = _environment(folder)

    def execute(words: list[str], folder: Path) -> str:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(words)}: {done.stderr}")
        return f"{done.stdout}{done.stderr}"

    return execute


def _environment(folder: Path) -> dict[str, str]:
    """``fxquant`` as a command, one thread, and no browser that opens."""
    tool = folder / "bin" / "fxquant"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m fxquant "$@"\n')
    tool.chmod(0o755)
    paths = os.pathsep.join((str(tool.parent), os.environ["PATH"]))
    root = str(PAGE.parents[1])
    return {**os.environ, "PATH": paths, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "BROWSER": "true"}


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
