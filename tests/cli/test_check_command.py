"""``fxquant check``: models and inputs named on the command line, exit codes, and errors with remedies."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from fxquant import cli

SOURCE = """
import torch
from torch import nn

SIZE = 4

class Net(nn.Module):
    def __init__(self, width=SIZE):
        super().__init__()
        self.layer = nn.Linear(width, 2)

    def forward(self, x, ids=None):
        if x.sum() > 0:
            x = x + 1
        return self.layer(x)

SCALES = {}

class Wrong(Net):
    def __init__(self):
        super().__init__()
        SCALES[id(self.layer)] = 2.0

    def forward(self, x):
        return self.layer(x) * SCALES.get(id(self.layer), 1.0)

class NeedsWidth(Net):
    def __init__(self, width):
        super().__init__(width)

def build():
    return Net()

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, ids):
        return self.table(ids).sum(1)

model = Net()

def inputs():
    return {"x": torch.randn(3, SIZE)}

fixed = (torch.randn(3, SIZE),)

class NoWeights(Net):
    def __init__(self):
        raise RuntimeError("weights not found")

def no_data():
    raise RuntimeError("no data here")
"""


@pytest.fixture
def file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / f"net_{abs(hash(request.node.name))}.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize("name", ["Net", "build", "model"])
def test_a_model_is_a_class_a_function_or_an_instance(
    name: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", f"{file}:{name}", "--input", "3,4"]) == 0
    out = capsys.readouterr().out
    assert "OK: traceable but for 1 float region" in out and "x.sum() > 0" in out and "torch.where" in out


@pytest.mark.parametrize("name", ["inputs", "fixed"])
def test_inputs_come_from_a_file_and_reports_as_json(name: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", f"{file}:Net", "--inputs", f"{file}:{name}", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] and report["findings"][0]["kind"] == "tensor-branch"


def test_a_module_of_a_package_and_integers(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(file.parent)
    monkeypatch.syspath_prepend(file.parent)
    assert cli.main(["check", f"{file.stem}:Tokens", "--input", "2,6:int64"]) == 0
    assert "ids: int64[2, 6]" in capsys.readouterr().out


def test_an_unhandled_error_exits_with_1(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", f"{file}:Wrong", "--input", "3,4"]) == 1
    assert "NOT TRACEABLE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["FILE:Missing", "--input", "3,4"], "has no Missing"),
        (["FILE:NeedsWidth", "--input", "3,4"], "without arguments"),
        (["FILE:Net"], "inputs of a call are not known"),
        (["FILE:Net", "--input", "3,4", "--inputs", "FILE:inputs"], "say two things"),
        (["FILE:Net", "--input", "three"], "no shape"),
        (["FILE:Net", "--input", "3,4:float33"], "no shape"),
        (["FILE:Net", "--input", "3,5"], "does not run on the example inputs"),
        (["FILE:SIZE", "--input", "3,4"], "no model"),
        (["nowhere.at_all:Net", "--input", "3,4"], "cannot be imported"),
        (["missing.py:Net", "--input", "3,4"], "there is no file"),
        (["FILE", "--input", "3,4"], "is neither module:object"),
        (["FILE:NoWeights", "--input", "3,4"], "weights not found. Remedy: see FILE:51"),
        (["FILE:Net", "--inputs", "FILE:no_data"], "no data here. Remedy: see FILE:54"),
        (["BROKEN:Net", "--input", "3,4"], "Remedy: correct BROKEN:2"),
        (["RAISING:Net", "--input", "3,4"], "Remedy: see RAISING:1"),
        (["FILE:Tokens", "--input", "2,6"], "for whole numbers, such as ids, --input 2,6:int64"),
    ],
)
def test_what_cannot_be_checked_is_said_in_one_line_with_exit_code_2(
    arguments: list[str], words: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"FILE": str(file), "BROKEN": f"{file.parent}/broken.py", "RAISING": f"{file.parent}/raising.py"}
    Path(names["BROKEN"]).write_text("import torch\ndef (:\n")
    Path(names["RAISING"]).write_text("1 / 0\n")

    def filled(text: str) -> str:
        return functools.reduce(lambda found, name: found.replace(name, names[name]), names, text)

    assert cli.main(["check", *map(filled, arguments)]) == 2
    err = capsys.readouterr().err
    assert filled(words) in err and "Traceback" not in err and len(err.splitlines()) == 1
