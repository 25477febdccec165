"""Files are loaded by processes that do not have the user's source, or are told what they need of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from user_models import Gated, WithLeaf, image, seeded

import fxquant

_HERE = Path(__file__).parent
_LOAD = """
import sys, torch, fxquant
for way in sys.argv[2:]:
    user_code, _, folder = way.partition(":")
    sys.path += [folder] if folder else []
    try:
        model = fxquant.load(sys.argv[1], user_code=user_code == "yes")
    except fxquant.FxquantError as error:
        print(error)
    else:
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
        print(float(model(x).detach().double().sum()))
    print(sorted(name for name in sys.modules if name == "user_models"))
    print("--")
"""


def _load(path: Path, *ways: str) -> list[list[str]]:
    """What loading prints in a fresh process, once for each way: ``yes`` or ``no`` to user code, ``:folder`` to add."""
    environment = {**os.environ, "PYTHONPATH": str(Path(fxquant.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(path), *ways],
        cwd=path.parent, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [part.strip().split("\n") for part in done.stdout.split("--\n")[: len(ways)]]


def _saved(model: nn.Module, path: Path, leaves: tuple[str, ...] = ()) -> float:
    custom = fxquant.PrepareCustomConfig().set_non_traceable_module_names(list(leaves))
    observed = fxquant.prepare_fx(model, fxquant.get_default_qconfig_mapping(), (image(),), custom)
    observed(image())
    quantized = fxquant.convert_fx(observed)
    fxquant.save(quantized, path)
    return float(quantized(image(5)).detach().double().sum())


def test_without_the_users_source(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    expected = _saved(model, tmp_path / "model.fxq")
    [[found, modules]] = _load(tmp_path / "model.fxq", "no")
    assert float(found) == pytest.approx(expected, rel=1e-12) and modules == "[]"


@pytest.mark.parametrize(("kind", "needed"), [(Gated, "user_models"), (WithLeaf, "user_models.Odd")])
def test_what_must_be_importable_is_named(kind: type[nn.Module], needed: str, tmp_path: Path) -> None:
    leaves = ("odd",) if kind is WithLeaf else ()
    expected = _saved(seeded(kind), tmp_path / "model.fxq", leaves)
    missing, refused, (found, _) = _load(tmp_path / "model.fxq", "yes", f"no:{_HERE}", "yes")
    text = "\n".join(missing)
    assert f"the file needs {needed} for" in text and "make the module user_models importable" in text
    text = "\n".join(refused)
    assert f"the file needs {needed}" in text and "user_code=False" in text and text.endswith("[]")
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_statements_run_only_where_the_users_module_holds_them(tmp_path: Path) -> None:
    """A file's own text is never what runs: other statements in the module, and the file is refused."""
    _saved(seeded(Gated), tmp_path / "model.fxq")
    other = tmp_path / "other"
    other.mkdir()
    text = (_HERE / "user_models.py").read_text().replace("x = x * 2", "x = x * 3")
    (other / "user_models.py").write_text(text)
    found = "\n".join(_load(tmp_path / "model.fxq", f"yes:{other}")[0])
    assert "user_models does not hold its statements any more" in found


def test_threads_and_dtypes_do_not_matter(tmp_path: Path) -> None:
    """Loading under another default dtype and in inference mode gives the same model."""
    expected = _saved(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), tmp_path / "model.fxq")
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            loaded = fxquant.load(tmp_path / "model.fxq")
    finally:
        torch.set_default_dtype(torch.float32)
    assert float(loaded(image(5)).detach().double().sum()) == expected
