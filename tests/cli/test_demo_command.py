"""The command line: the digits demo end to end, arguments, and errors without tracebacks."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from fxquant import cli
from fxquant.commands import demo as demo_command
from fxquant.demo import DemoTask, build_task, run
from fxquant.errors import FxquantError

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def digits() -> DemoTask:
    """The trained task, for tests that are not about how it comes about."""
    return build_task("digits")


def test_digits_demo_end_to_end(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_LATENCY_SECONDS", 0.1)
    threads, engine = torch.get_num_threads(), torch.backends.quantized.engine
    assert cli.main(["demo", "--batches", "4"]) == 0
    out, err = capsys.readouterr()
    assert (torch.get_num_threads(), torch.backends.quantized.engine) == (threads, engine)
    assert err == ""
    assert "\x1b" not in out
    lines = {line.split("  ")[0]: line.split() for line in out.splitlines()}
    before, after = (float(word) for word in lines["accuracy"][1:5:2])
    assert before > 97
    assert after >= before - 0.6
    assert "size of the state_dict" in out
    assert "latency, 256 images, 1 thread" in out
    assert "multiply-accumulates in int8" in out
    assert "float → quantized: " in out
    assert "fold_batch_norm" in out


def test_quiet_prints_the_table_only(
    digits: DemoTask, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_LATENCY_SECONDS", 0.1)
    monkeypatch.setattr(run, "build_task", lambda name, progress: digits)
    assert cli.main(["demo", "--quiet", "--batches", "1"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["float", "int8"]
    assert "float → quantized" not in out


def test_errors_are_one_paragraph_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, **options: object) -> None:
        raise FxquantError("the wheel is missing", module_path="a.b", remedy="install it")

    monkeypatch.setattr(demo_command, "run_demo", fail)
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr().err == "fxquant: the wheel is missing (module a.b). Remedy: install it\n"


def test_too_many_batches_is_an_error(
    digits: DemoTask, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "build_task", lambda name, progress: digits)
    assert cli.main(["demo", "--batches", "1000"]) == 1
    assert "Remedy: ask for fewer" in capsys.readouterr().err


def test_arguments_reach_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr(demo_command, "run_demo", lambda name, **options: seen.update(options, name=name))
    assert cli.main(["demo", "--model", "efficientnet_lite0", "--backend", "qnnpack", "--no-diff"]) == 0
    assert seen == {
        "name": "efficientnet_lite0",
        "backend": "qnnpack",
        "batches": None,
        "quiet": False,
        "show_diff": False,
    }


@pytest.mark.parametrize("words", [[], ["demo", "--model", "lenet"], ["demo", "--batches", "0"], ["bake"]])
def test_wrong_arguments_exit_with_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2


def test_help_has_examples_and_the_module_runs() -> None:
    command = [sys.executable, "-m", "fxquant", "demo", "--help"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "examples:" in out
    assert "fxquant demo --model efficientnet_lite0" in out
