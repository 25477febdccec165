"""Damaged and hostile files are refused with an error of fxquant's, before anything of them runs."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import fxquant

_SETTINGS = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a small model."""
    path = tmp_path_factory.mktemp("whole") / "model.fxq"
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    fxquant.save(fxquant.quantize(model, [torch.randn(2, 3, 8, 8)], progress=False), path)
    return path


def _rewritten(whole: Path, path: Path, change: Callable[[Any], Any]) -> Path:
    """A copy of the file with another document."""
    with zipfile.ZipFile(whole) as archive:
        document, tensors = json.loads(archive.read("model.json")), archive.read("tensors.bin")
    changed = change(document)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.json", json.dumps(document if changed is None else changed))
        archive.writestr("tensors.bin", tensors)
    return path


def _refused(path: Path) -> str:
    with pytest.raises(fxquant.FxquantError) as caught:
        fxquant.load(path)
    return str(caught.value)


def test_the_document_alone_is_not_what_fails(whole: Path, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    again = fxquant.load(_rewritten(whole, tmp_path / "model.fxq", lambda document: None))
    assert torch.equal(again(x), fxquant.load(whole)(x))


@_SETTINGS
@given(place=st.floats(0, 1), what=st.binary(min_size=1, max_size=8))
def test_changed_bytes(place: float, what: bytes, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any bytes changed anywhere: the checksums find it, or nothing that matters was changed."""
    data = bytearray(whole.read_bytes())
    start = int(place * (len(data) - len(what)))
    data[start : start + len(what)] = what
    path = tmp_path_factory.mktemp("changed") / "model.fxq"
    path.write_bytes(data)
    try:
        loaded = fxquant.load(path)
    except fxquant.FxquantError:
        return
    x = torch.ones(1, 3, 8, 8)
    assert torch.equal(loaded(x), fxquant.load(whole)(x))


@_SETTINGS
@given(share=st.floats(0, 0.999))
def test_cut_off(share: float, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("cut") / "model.fxq"
    path.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    assert "no model file that fxquant can read" in _refused(path)


def _places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, item in items:
        found += _places(item, (*path, key))
    return found


_VALUES = st.sampled_from(
    [None, True, -1, 3, 1e9, 10**30, "", "x", "__class__", "a b", "fxquant", [], [[]], {}, {"$": "tensor", "number": 0}]
)


@_SETTINGS
@given(seed=st.integers(0, 10**6), value=_VALUES)
def test_changed_values(seed: int, value: Any, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any value of the document replaced: an error of fxquant's, or a model."""

    def change(document: Any) -> None:
        *way, last = random.Random(seed).choice(_places(document)[1:])
        for key in way:
            document = document[key]
        document[last] = value

    path = _rewritten(whole, tmp_path_factory.mktemp("values") / "model.fxq", change)
    try:
        assert isinstance(fxquant.load(path), fxquant.ir.stages.StageModule)
    except fxquant.FxquantError:
        return


def test_files_that_are_something_else(tmp_path: Path) -> None:
    assert "there is no file" in _refused(tmp_path / "missing.fxq")
    (tmp_path / "text.fxq").write_text("hello")
    assert "no model file" in _refused(tmp_path / "text.fxq")
    torch.save({"a": torch.ones(2)}, tmp_path / "weights.pt")
    assert "no model file" in _refused(tmp_path / "weights.pt")
    (tmp_path / "folder.fxq").mkdir()
    assert "there is no file" in _refused(tmp_path / "folder.fxq")


def test_a_later_format_says_so(whole: Path, tmp_path: Path) -> None:
    text = _refused(_rewritten(whole, tmp_path / "later.fxq", lambda document: document.update(format=99)))
    assert "file format 99" in text and "install fxquant" in text


def _node(document: Any, op: str) -> Any:
    nodes = [node for row in document["modules"] for node in row.get("nodes", ())]
    return next(node["fields"] for node in nodes if node["fields"]["op"] == op)


def _call(document: Any, target: Any, *args: Any) -> None:
    _node(document, "call_module").update(op="call_function", target=target, args={"$": "tuple", "items": list(args)})


_MARK = "fxquant_was_here"
_PART = {"$": "part", "module": "hypothesis", "file": "f", "first_line": 1}
HOSTILE: dict[str, Callable[[Any], Any]] = {
    "a function of os": lambda d: _call(d, {"$": "function", "name": "os.system"}, f"touch {_MARK}"),
    "eval": lambda d: _call(d, {"$": "function", "name": "builtins.eval"}, "1"),
    "a function of the standard library": lambda d: _call(d, {"$": "user_function", "user": "os:system"}, "true"),
    "a function behind a user's": lambda d: _call(d, {"$": "user_function", "user": "hypothesis:os.system"}, "true"),
    "a private attribute": lambda d: _call(d, {"$": "function", "name": "builtins.getattr"}, "x", "__class__"),
    "a computed attribute": lambda d: _call(d, {"$": "function", "name": "builtins.getattr"}, "x", ["shape"]),
    "reading a file": lambda d: _call(d, {"$": "function", "name": "torch.load"}, "x"),
    "making a file": lambda d: _call(d, {"$": "function", "name": "torch.from_file"}, "x"),
    "saving by an operator": lambda d: _call(
        d, {"$": "data", "class": "fxquant.ir.records.TorchOp", "fields": {"path": "aten.save.default"}}, "x"
    ),
    "a module of any name": lambda d: _call(
        d,
        {"$": "data", "class": "fxquant.ir.records.NamedFunction", "fields": {"module": "os", "name": "system"}},
        "true",
    ),
    "random numbers of os": lambda d: _call(d, {"$": "drawn", "module": "os", "name": "system"}, "true"),
    "behind random numbers": lambda d: _call(d, {"$": "drawn", "module": "random", "name": "_os.system"}, "true"),
    "code in an input's name": lambda d: _node(d, "placeholder").update(target="x=print(1)"),
    "code in a keyword": lambda d: _node(d, "call_module").update(kwargs={"$": "dict", "items": [["a=1, b", 1]]}),
    "code in a module's path": lambda d: _node(d, "call_module").update(target='int8"]; print(1); x["'),
    "a module that is a method": lambda d: _node(d, "call_module").update(target="int8.forward.__globals__"),
    "a class of the standard library": lambda d: d["modules"][-1].update({"user": "subprocess:Popen"}),
    "a class that is no module": lambda d: d["modules"][-1].update({"class": "torch.nn.modules.module.OrderedDict"}),
    "code in the class's name": lambda d: next(r for r in d["modules"] if "stage" in r).update(name="A(print(1))"),
    "memory outside the file": lambda d: d["regions"][0].update(bytes=10**9),
    "a tensor outside its memory": lambda d: d["tensors"][0].update(offset=10**9),
    "a tensor of negative steps": lambda d: next(t for t in d["tensors"] if len(t["shape"]) == 4).update(
        stride=[-1] * 4
    ),
    "statements of the file's own": lambda d: _call(
        d, {"$": "part", "source": "def part():\n    print(1)", "module": "hypothesis", "file": "f", "first_line": 1}
    ),
    "a default that runs": lambda d: _call(
        d,
        {
            "$": "part",
            "source": "def part(a=print(1)):\n    pass",
            "module": "hypothesis",
            "file": "f",
            "first_line": 1,
        },
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = _refused(_rewritten(whole, tmp_path / "hostile.fxq", HOSTILE[name]))
    assert "remedy" in text
    assert not (tmp_path / _MARK).exists()


def test_compressed_members_are_refused(whole: Path, tmp_path: Path) -> None:
    """They could grow without limit when read."""
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(tmp_path / "m.fxq", "w", zipfile.ZIP_DEFLATED) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    assert "compressed" in _refused(tmp_path / "m.fxq")
