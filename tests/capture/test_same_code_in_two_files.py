"""Two files may hold the same function on the same line: Python takes its code for equal, and the source is another."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import torch

from fxquant import pipeline
from fxquant.ir.codes import remembered

SOURCE = """
import torch
from torch import nn
import torch.nn.functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        y = self.layer(F.pad(x, (0, 1)) if x.shape[-1] % 2 else x)
        if y.max() > 100:
            y = y * 2
        return y
"""


def _loaded(path: Path) -> ModuleType:
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_file_has_its_own_source(tmp_path: Path) -> None:
    modules = [_loaded(tmp_path / f"net_{number}.py") for number in range(3)]
    assert modules[0].Net.forward.__code__ == modules[1].Net.forward.__code__
    for module in modules:
        model = module.Net().eval()
        captured = pipeline.capture(model, (torch.randn(2, 3),))
        for x in (torch.randn(2, 3), torch.randn(3, 4), torch.full((2, 3), 1000.0)):
            assert torch.equal(captured(x), model(x))
        files = {part.file for _, part in captured.named_modules() if hasattr(part, "first_line")}
        assert files == {module.__file__}


def test_what_is_remembered_is_of_one_code() -> None:
    calls = []

    @remembered
    def name_of(code: object, text: str) -> str:
        calls.append(text)
        return f"{text}{len(calls)}"

    spaces: list[dict[str, object]] = [{}, {}]
    for space, file in zip(spaces, ("a.py", "b.py"), strict=True):
        exec(compile("def f(): return 1", file, "exec"), space)
    first, second = (getattr(space["f"], "__code__") for space in spaces)  # noqa: B009
    assert first == second
    assert [name_of(code, "x") for code in (first, second, first, second)] == ["x1", "x2", "x1", "x2"]
    assert name_of(first, "y") == "y3"
