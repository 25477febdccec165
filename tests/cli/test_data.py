"""Data for commands: array files, folders of images and functions, and what is wrong with them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import torch

from fxquant import FxquantError, cli
from fxquant.commands.subject import add_data, read_batches

_FUNCTIONS = """
import itertools, numpy, torch
def endless():
    for index in itertools.count():
        yield torch.full((2, 3), float(index))
def arrays():
    return [numpy.ones((2, 3), "float32")]
def one_of_keywords():
    return {"x": torch.ones(2, 3)}
def nothing():
    return None
def number():
    return 5
def fails():
    yield torch.ones(2, 3)
    raise OSError("disk gone")
def leaves():
    raise SystemExit(5)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "functions_of_data.py").write_text(_FUNCTIONS)
    yield tmp_path
    sys.modules.pop("functions_of_data", None)


def _read(*words: object) -> list[object]:
    parser = argparse.ArgumentParser()
    add_data(parser, "--data", what="x")
    found = read_batches(parser.parse_args(["--data", *map(str, words)]))
    assert found is not None
    return found


def test_arrays_of_any_byte_order_and_double_precision(place: Path) -> None:
    x = numpy.random.default_rng(0).standard_normal((5, 3))
    for name, dtype in (("double", "float64"), ("big", ">f4"), ("plain", "float32")):
        numpy.save(place / f"{name}.npy", x.astype(dtype))
        found = _read(f"{name}.npy", "--batch-size", 4)
        assert [tuple(batch.shape) for batch in found] == [(4, 3), (1, 3)]
        assert torch.equal(torch.cat(found), torch.from_numpy(x.astype("float32")))


def test_several_arrays_are_inputs_by_keyword(place: Path) -> None:
    x, y = numpy.ones((5, 3), "float32"), numpy.zeros((5, 2), "float32")
    numpy.savez(place / "both.npz", x=x, y=y)
    torch.save({"x": torch.from_numpy(x), "y": torch.from_numpy(y)}, place / "both.pt")
    for name in ("both.npz", "both.pt"):
        found = _read(name, "--batch-size", 3)
        assert [{key: tuple(item.shape) for key, item in batch.items()} for batch in found] == [
            {"x": (3, 3), "y": (3, 2)},
            {"x": (2, 3), "y": (2, 2)},
        ]
    numpy.savez(place / "odd.npz", x=x, y=y[:4])
    with pytest.raises(FxquantError, match=r"different lengths \(x: 5, y: 4\)"):
        _read("odd.npz")


def test_functions(place: Path) -> None:
    found = _read("functions_of_data.py:endless", "--batches", 2)
    assert [float(batch[0, 0]) for batch in found] == [0.0, 1.0]
    assert isinstance(_read("functions_of_data.py:arrays")[0], torch.Tensor)
    assert list(_read("functions_of_data.py:one_of_keywords")[0]) == ["x"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("functions_of_data.py:nothing", "gives a NoneType"),
        ("functions_of_data.py:number", "gives a int"),
        ("functions_of_data.py:fails", "raised OSError: disk gone"),
        ("functions_of_data.py:leaves", "raised SystemExit: 5"),
        ("empty.npy", "its first axis is empty"),
        ("text.npy", "cannot be read: can't convert"),
        ("text.pt", "holds values of type str"),
        ("model.pt", "holds something else than tensors, or is damaged"),
        ("broken.pt", "holds something else than tensors, or is damaged"),
    ],
)
def test_what_is_no_data(name: str, message: str, place: Path) -> None:
    numpy.save(place / "empty.npy", numpy.ones((0, 3)))
    numpy.save(place / "text.npy", numpy.array(["a", "b"]))
    torch.save({"a": "b"}, place / "text.pt")
    torch.save(torch.nn.Linear(2, 2), place / "model.pt")
    (place / "broken.pt").write_bytes(b"\x80\x02damaged" * 9)
    with pytest.raises(FxquantError, match=message.replace("(", r"\(")):
        _read(name)


def test_images_of_every_kind(place: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    deep = numpy.full((20, 30), 65535 * 3 // 4, numpy.uint16)
    image.fromarray(deep).save(place / "a_deep.png")
    for index, mode in enumerate(("L", "RGBA", "1", "P", "CMYK")):
        made = image.new(mode, (20 + 7 * index, 31))
        made.save(place / f"b{index}.{'jpg' if mode == 'CMYK' else 'png'}")
    (place / "._b0.png").write_bytes(b"what another system left")
    found = torch.cat(_read(place, "--image-size", 16, "--mean", "0,0,0", "--std", "1,1,1"))
    assert found.shape == (6, 3, 16, 16)
    assert torch.allclose(found[0], torch.tensor(0.75), atol=0.005)
    grey = torch.cat(_read(place, "--image-size", 16, "--mean", "0.5", "--std", "0.5"))
    assert grey.shape == (6, 1, 16, 16)
    assert torch.allclose(grey[0], torch.tensor(0.5), atol=0.01)
    with pytest.raises(FxquantError, match="--mean has 1 numbers and --std 3"):
        _read(place, "--image-size", 16, "--mean", "0.5")


def test_damaged_images_are_named(place: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (place / "photos").mkdir()
    image.new("RGB", (40, 40)).save(place / "photos" / "a.jpg")
    whole = (place / "photos" / "a.jpg").read_bytes()
    (place / "photos" / "b.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FxquantError, match=r"photos/b\.jpg cannot be read"):
        _read("photos", "--image-size", 16)


def test_places_that_cannot_be_written_are_found_first(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ("quantize", "no.py:model", "--calibrate", "no.npy", "-o", "nowhere/net.fxq"),
        ("diff", "no.py:model", "no.fxq", "--html", "nowhere/net.html"),
    ):
        assert cli.main(list(words)) == 1
        err = capsys.readouterr().err
        assert "cannot be written: No such file or directory. Remedy:" in err and err.count("\n") == 1
    kept = place / "net.fxq"
    kept.write_text("old")
    assert cli.main(["quantize", "no.py:model", "--calibrate", "no.npy", "-o", str(kept)]) == 1
    assert kept.read_text() == "old" and not list(place.glob("*.unfinished"))
