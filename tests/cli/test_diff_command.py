"""fxquant diff: text, JSON, Markdown and a page, of a model and its file or of two files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fxquant import cli


@pytest.fixture(scope="module")
def mixed(folder: Path) -> Path:
    """The same model with one block left float."""
    words = ["quantize", f"{folder}/net.py:model", "--calibrate", f"{folder}/batches.npy", "--float", "blocks.2"]
    assert cli.main([*words, "-o", f"{folder}/mixed.fxq", "--quiet"]) == 0
    return folder / "mixed.fxq"


def test_text_and_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["diff", f"{folder}/net.py:model", f"{folder}/net.fxq"]
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert out.startswith("float → quantized: ") and "[fuse: fold_batch_norm, absorb_clip; lower_native]" in out
    assert err == "" and "\x1b" not in out
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["before"] == "float" and sum(found["counts"].values()) == len(found["changes"])
    assert found["changes"][0]["after"][0]["name"] == "x"


def test_two_configurations(folder: Path, mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["diff", f"{folder}/net.fxq", str(mixed)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("quantized → quantized: ") and "blocks.2" in out
    assert cli.main(["diff", f"{folder}/net.fxq", f"{folder}/net.fxq"]) == 0
    assert "unchanged" in capsys.readouterr().out


def test_context_shows_neighbours(folder: Path, mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for context in ("0", "2"):
        assert cli.main(["diff", f"{folder}/net.fxq", str(mixed), "--context", context]) == 0
        texts.append(capsys.readouterr().out)
    assert len(texts[1].split("\n")) > len(texts[0].split("\n"))


def test_page_and_markdown_with_errors(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["diff", f"{folder}/net.py:model", f"{folder}/net.fxq", "--data", f"{folder}/batches.npy"]
    assert cli.main([*words, "--html", f"{tmp_path}/a.html", "--markdown", f"{tmp_path}/a.md"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and err == f"wrote {tmp_path}/a.md\nwrote {tmp_path}/a.html\n"
    assert "by error" in (tmp_path / "a.html").read_text()
    assert "| error by itself | with all before |" in (tmp_path / "a.md").read_text()
    assert cli.main(["diff", f"{folder}/net.fxq", f"{folder}/net.fxq", "--data", f"{folder}/batches.npy"]) == 1
    assert "name the float model first" in capsys.readouterr().err


def test_a_float_model_alone_is_planned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["diff", f"{folder}/net.py:model", f"{folder}/net.py:model", "--input", "1,3,32,32"]
    assert cli.main(words) == 0
    assert capsys.readouterr().out.startswith("float → observed: ")
