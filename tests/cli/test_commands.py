"""Every command: what it prints for people and as JSON, its exit codes, and its errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fxquant
from fxquant import cli

_SHAPE = ("--input", "1,3,32,32")


def _run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in words])
    return (code, *capsys.readouterr())


def _json(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    code, out, err = _run(capsys, *words, "--json")
    assert code == 0 and err == ""
    return json.loads(out)


@pytest.mark.parametrize("command", ["quantize", "diff", "explain", "compare", "profile", "bench", "demo"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    out = capsys.readouterr().out
    assert caught.value.code == 0
    assert "examples:" in out and f"\n  fxquant {command} " in out
    assert "--json" in out and "--quiet" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"fxquant {fxquant.__version__}\n"


@pytest.mark.parametrize("data", ["batches.npy", "batches.pt", "list.pt", "net.py:batches"])
def test_quantize_takes_data_in_every_form(
    data: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("quantize", f"{folder}/net.py:model", "--calibrate", f"{folder}/{data}", "-o", tmp_path / "net.fxq")
    code, out, err = _run(capsys, *words, "--batches", 2)
    assert code == 0 and err == f"wrote {tmp_path}/net.fxq\n"
    assert "SQNR of the output" in out and "latency of one call, 1 thread" in out and "operators: int8" in out
    assert "\x1b" not in out
    x = torch.randn(2, 3, 32, 32)
    assert fxquant.load(tmp_path / "net.fxq")(x).shape == (2, 10)


def test_quantize_takes_a_folder_of_images(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    for index, size in enumerate(((40, 60), (90, 33), (32, 32))):
        image.new("RGB", size, (40 * index, 200, 10)).save(tmp_path / "photos" / "cats" / f"{index}.png")
    words = ("quantize", f"{folder}/net.py:model", "--calibrate", tmp_path / "photos", "-o", tmp_path / "net.fxq")
    code, _, err = _run(capsys, *words)
    assert code == 1 and "add --image-size 224" in err
    found = _json(capsys, *words, "--image-size", 32, "--batch-size", 2)
    assert found["operators"]["int8"] > 5


def test_quantize_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("quantize", f"{folder}/net.py:model", "--calibrate", f"{folder}/batches.npy", "-o", tmp_path / "net.fxq")
    found = _json(capsys, *words)
    assert found["sqnr_db"] > 25 and found["bytes"]["int8"] < found["bytes"]["float"]
    assert found["file_bytes"] == (tmp_path / "net.fxq").stat().st_size
    assert found["int8_mac_share"] == 1.0


def test_quantize_leaves_names_float(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Modules by path, operators by the name that explain gives them."""
    words = ("quantize", f"{folder}/net.py:model", "--calibrate", f"{folder}/batches.npy", "-o", tmp_path / "net.fxq")
    assert _run(capsys, *words, "--float", "blocks.0", "--float", "mean", "--quiet")[0] == 0
    rows = fxquant.explain(fxquant.load(tmp_path / "net.fxq")).rows
    outcomes = {row.node: row.outcome for row in rows}
    assert outcomes["mean"] == "float" and outcomes["blocks_0_conv1"] == "float"
    assert outcomes["blocks_2_conv1"] == "int8"
    code, _, err = _run(capsys, *words, "--float", "no_such")
    assert code == 1 and "no_such is neither a module nor an operator" in err


def test_quantize_dynamic(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("quantize", f"{folder}/net.py:model", "--dynamic", *_SHAPE, "-o", tmp_path / "net.fxq")
    assert _json(capsys, *words)["sqnr_db"] is None


def test_explain(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(capsys, "explain", folder / "net.fxq")
    assert code == 0 and err == "" and "blocks_0_conv1" in out and "operators: " in out
    found = _json(capsys, "explain", folder / "net.fxq", "--outcome", "folded")
    assert {row["outcome"] for row in found["rows"]} == {"folded"} and found["counts"]["int8"] > 5
    _, out, _ = _run(capsys, "explain", folder / "net.fxq", "--node", "blocks.0.conv1")
    assert out.startswith("blocks_0_conv1\n  operator    conv2d\n  module      blocks.0.conv1\n")
    code, _, err = _run(capsys, "explain", folder / "net.fxq", "--node", "nothing")
    assert code == 1 and "there is no operator nothing" in err


def test_explain_the_slowest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = _run(capsys, "explain", folder / "net.fxq", "--slowest", *_SHAPE)
    assert " ms, " in out.split("\n")[0] and "\n  kernel      " in out and "\n  outcome     int8" in out
    found = _json(capsys, "explain", folder / "net.fxq", "--slowest", *_SHAPE)
    assert found["slowest"]["median_ms"] > 0 and found["rows"]


def test_explain_plans_float_models(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, "explain", f"{folder}/net.py:model", *_SHAPE)
    assert found["stage"] == "observed" and found["counts"]["int8"] > 5
    code, _, err = _run(capsys, "explain", f"{folder}/net.py:model")
    assert code == 1 and "--input" in err


def test_compare(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", f"{folder}/net.py:model", folder / "net.fxq", "--data", folder / "batches.npy")
    code, out, err = _run(capsys, *words, "--worst", 3)
    assert code == 0 and err == "" and "3 values over 2 batches" in out
    found = _json(capsys, *words)
    assert {"node", "module_path", "op", "local_sqnr_db", "cumulative_sqnr_db"} <= set(found["rows"][0])
    assert _run(capsys, *words, "--least", 5)[0] == 0
    code, _, err = _run(capsys, *words, "--least", 100)
    assert code == 3 and "100 were asked for" in err
    code, _, err = _run(capsys, "compare", folder / "net.fxq", f"{folder}/net.py:model", "--data", folder / "list.pt")
    assert code == 1 and "swap them" in err


def test_compare_recommends(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", f"{folder}/net.py:model", folder / "net.fxq", "--data", folder / "batches.npy", "--recommend")
    found = _json(capsys, *words, "--batches", 1)
    assert {"alone", "left_float", "module_path"} <= set(found["sensitivity"]["rows"][0])


def test_profile(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("profile", folder / "net.fxq", *_SHAPE, "--seconds", 0.2)
    code, out, err = _run(capsys, *words, "--threads", 1)
    assert code == 0 and err == "" and "whole model" in out and "on 1 threads" in out
    found = _json(capsys, *words, "--float", f"{folder}/net.py:model")
    assert found["nodes_ms"] > 0 and found["rows"][0]["kernel"]
    code, _, err = _run(capsys, "profile", folder / "net.fxq")
    assert code == 1 and "--input" in err


def test_bench(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("bench", f"{folder}/net.py:model", folder / "net.fxq", *_SHAPE, "--seconds", 0.2)
    code, out, _ = _run(capsys, *words)
    assert code == 0 and "net.py:model" in out and "1.00 x" in out
    found = _json(capsys, *words, "--threads", 2)
    assert [row["latency_ms"] > 0 for row in found["models"]] == [True, True] and found["threads"] == 2


def test_inputs_by_a_function(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "inputs.py").write_text("import torch\ndef example():\n    return {'x': torch.randn(1, 3, 32, 32)}\n")
    words = ("bench", folder / "net.fxq", "--inputs", f"{folder}/inputs.py:example", "--seconds", 0.1)
    assert _json(capsys, *words)["models"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("explain", "nothing.fxq"), "neither module:object, file.py:object nor an existing file"),
        (("explain", "README.md"), "nor a file that fxquant quantize wrote"),
        (("explain", "nothing.py:model"), "there is no file nothing.py"),
        (("explain", "no_such_module:model"), "cannot be imported: ModuleNotFoundError"),
        (("explain", "{folder}/net.py:modell"), "has no modell. Remedy: it has"),
        (("explain", "{folder}/net.py:batches", "--input", "1,3,32,32"), "is a list, and no model"),
        (("explain", "{folder}/bad.py:model"), "cannot be imported: ZeroDivisionError: division by zero"),
        (("explain", "{folder}/fails.py:model"), "raised ValueError: no weights"),
        (("explain", "{folder}/net.py:model", "--input", "1,x"), "--input 1,x is no shape"),
        (("explain", "{folder}/net.py:model", "--input", "1", "--inputs", "a:b"), "say two things"),
        (("quantize", "{folder}/net.py:model", "-o", "x.fxq"), "add --calibrate"),
        (("quantize", "{folder}/net.fxq", "-o", "x.fxq"), "is quantized already"),
        (("quantize", "{folder}/net.py:model", "-o", "x.fxq", "--calibrate", "gone.npy"), "there is no gone.npy"),
        (
            ("quantize", "{folder}/net.py:model", "-o", "x.fxq", "--calibrate", "{folder}/net.py"),
            "neither .npy nor .pt",
        ),
        (("quantize", "{folder}/net.py:model", "-o", "x.fxq", "--calibrate", "{folder}/zip.npy"), "cannot be read"),
        (("compare", "{folder}/net.py:model", "{folder}/net.fxq"), "add --data"),
        (("profile", "{folder}/net.py:model", "--input", "1,3,32,32"), "profile needs a quantized model"),
        (("diff", "{folder}/net.py:model", "{folder}/net.fxq", "--open"), "add --html FILE"),
    ],
)
def test_errors_have_a_remedy_and_exit_with_1(
    words: tuple[str, ...], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.py").write_text("1 / 0\n")
    (folder / "fails.py").write_text("def model():\n    raise ValueError('no weights')\n")
    (folder / "zip.npy").write_bytes(b"PK not an array")
    code, out, err = _run(capsys, *(word.format(folder=folder) for word in words))
    assert code == 1 and out == ""
    assert err.startswith("fxquant: ") and message in err and "Remedy: " in err and err.count("\n") == 1


@pytest.mark.parametrize("words", [["explain"], ["quantize", "a:b"], ["bench"], ["profile", "x", "--threads", "0"]])
def test_wrong_arguments_exit_with_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2


def test_a_process_without_the_source(folder: Path, tmp_path: Path) -> None:
    """The file alone is explained, profiled and timed elsewhere; no escape codes and no bars in pipes."""
    environment = {**os.environ, "PYTHONPATH": str(Path(fxquant.__file__).parents[1])}
    (tmp_path / "net.fxq").write_bytes((folder / "net.fxq").read_bytes())
    for words in (["explain", "net.fxq"], ["bench", "net.fxq", *_SHAPE, "--seconds", "0.1"]):
        command = [sys.executable, "-m", "fxquant", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == "" and "\x1b" not in done.stdout and done.stdout


def test_modules_are_found_in_the_current_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shapes_of_mine.py").write_text((folder / "net.py").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert _json(capsys, "explain", "shapes_of_mine:Net", *_SHAPE)["rows"]
