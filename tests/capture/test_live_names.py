"""Names that a function may still read behind some of its statements."""

from __future__ import annotations

import ast
import textwrap

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import pipeline
from fxquant.capture.live_names import live_names


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("a = 1; b = 2\nreturn a", {"a"}),
        ("a = 1\na = 2\nreturn a", set()),
        ("a = 1\nif c:\n    a = 2\nreturn a", {"a", "c"}),
        ("a = 1\nif c:\n    a = 2\nelse:\n    a = 3\nreturn a", {"c"}),
        ("a = 1\nif c:\n    a = 2\n    x = a\nreturn x", {"c", "x"}),
        ("a = 1\nif c:\n    return a\na = 3\nreturn a", {"a", "c"}),
        ("a = 1\na += 1\nreturn a", {"a"}),
        ("a = 1\na, b = b, a\nreturn b", {"a", "b"}),
        ("a = 1\na[0] = 3", {"a"}),
        ("a = 1\nfor a in b:\n    pass\nreturn a", {"a", "b"}),
        ("a = 1\ntry:\n    a = 2\nexcept E:\n    pass\nreturn a", {"E", "a"}),
        ("def f():\n    return a\nif c:\n    a = 1\n    a = 2\nreturn f()", {"a", "c", "f"}),
        ("a = 1\nwhile c:\n    a = 2\n", {"c"}),
        ("a = 1\ndel a", {"a"}),
    ],
)
def test_behind_the_first_statement(code: str, expected: set[str]) -> None:
    function = ast.parse("def f(c, b):\n" + textwrap.indent(code, "    ")).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert live_names(function, function.body[:1]) == expected


@pytest.mark.parametrize(
    "code", ["for i in b:\n    a = 1", "with b:\n    a = 1", "try:\n    a = 1\nfinally:\n    pass"]
)
def test_it_cannot_be_told_inside_loops(code: str) -> None:
    function = ast.parse("def f(b):\n" + textwrap.indent(code, "    ")).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert live_names(function, function.body[0].body) is None  # type: ignore[attr-defined]


def test_inside_branches() -> None:
    text = "def f(c, x):\n    if c:\n        a = 1\n        y = x\n    else:\n        y = c\n    a = y\n    return a"
    function = ast.parse(text).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert live_names(function, function.body[0].body[:1]) == {"x"}  # type: ignore[attr-defined]


def test_all_is_read_where_locals_are_asked_for() -> None:
    function = ast.parse("def f(a):\n    a = 1\n    return locals()").body[0]
    assert isinstance(function, ast.FunctionDef)
    assert live_names(function, function.body[:1]) is None


class PadsEachSide(nn.Module):
    """Uses one name for the padding of two sides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def pad(self, x: Tensor, height: int, width: int) -> Tensor:
        if width % 4 != 0:
            pads: tuple[int, ...] = (0, 4 - width % 4)
            x = F.pad(x, pads)
        if height % 4 != 0:
            pads = (0, 0, 0, 4 - height % 4)
            x = F.pad(x, pads)
        return x

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(self.pad(x, *x.shape[2:]))
        return y


SIZES = [(32, 32), (35, 33), (35, 32), (32, 35)]


@pytest.mark.parametrize("example", SIZES)
def test_a_name_that_is_set_again_before_it_is_read_is_not_handed_out(example: tuple[int, int]) -> None:
    model = PadsEachSide().eval()
    captured = pipeline.capture(model, (torch.randn(1, 3, *example),))
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (torch.randn(1, 3, *example),))
    for size in SIZES:
        x = torch.randn(1, 3, *size)
        assert torch.equal(captured(x), model(x))
        assert torch.allclose(observed(x), model(x), atol=1e-6)
