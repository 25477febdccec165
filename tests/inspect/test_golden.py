"""What the diff and the reports say of three networks, word by word.

``FXQUANT_WRITE_GOLDEN=1 pytest tests/inspect/test_golden.py`` writes the texts anew; read what changed before you keep
it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from golden_networks import NETWORKS, build

import fxquant
from fxquant.inspect.render_diff import to_plain

_FOLDER = Path(__file__).parent / "golden"
_CPU = re.compile(r",? ?weight pairs within ±128|weights limited in pairs[^|;\n]*")
_SOURCE = re.compile(r"golden_networks\.py:\d+")
_DECIMAL, _WHOLE = re.compile(r"-?\d+\.\d+(?:e-?\d+)?"), re.compile(r"(?<=zero_point=)-?\d+")
# Sums in another order, on another CPU, move ranges by less than that.
_SHARE = 0.05


def _check(name: str, text: str) -> None:
    """Words must be the same; decimals within 5 %, zero points within 1, and what depends on the CPU is left out."""
    text = _CPU.sub("", _SOURCE.sub("golden_networks.py", text)) + "\n"
    path = _FOLDER / name
    if os.environ.get("FXQUANT_WRITE_GOLDEN"):
        _FOLDER.mkdir(exist_ok=True)
        path.write_text(text)
    golden = path.read_text()
    assert _WHOLE.sub("#", _DECIMAL.sub("#", text)) == _WHOLE.sub("#", _DECIMAL.sub("#", golden))
    assert _numbers(_DECIMAL, text) == pytest.approx(_numbers(_DECIMAL, golden), rel=_SHARE)
    assert _numbers(_WHOLE, text) == pytest.approx(_numbers(_WHOLE, golden), abs=1)


def _numbers(kind: re.Pattern[str], text: str) -> list[float]:
    return [float(item) for item in kind.findall(text)]


@pytest.fixture(scope="module", params=list(NETWORKS))
def made(request: pytest.FixtureRequest) -> dict[str, Any]:
    model, batches, mapping = build(request.param)
    observed = fxquant.prepare_fx(model, mapping, (batches[0],), backend_config="onednn")
    for batch in batches:
        observed(batch)
    reference, quantized = fxquant.convert_to_reference_fx(observed), fxquant.convert_fx(observed)
    stages = {"float": model, "observed": observed, "reference": reference, "quantized": quantized}
    return {"name": request.param.lower(), "batches": batches, **stages}


@pytest.mark.parametrize(
    ("before", "after"),
    [("float", "observed"), ("float", "reference"), ("float", "quantized"), ("reference", "quantized")],
)
def test_diff(made: dict[str, Any], before: str, after: str) -> None:
    text = to_plain(fxquant.graph_diff(made[before], made[after]))
    _check(f"{made['name']}_{before}_{after}.txt", text)


def test_diff_with_context(made: dict[str, Any]) -> None:
    text = to_plain(fxquant.graph_diff(made["float"], made["observed"], context=2))
    _check(f"{made['name']}_context.txt", text)


def test_diff_as_markdown(made: dict[str, Any]) -> None:
    text = fxquant.graph_diff(made["float"], made["quantized"]).to_markdown()
    _check(f"{made['name']}.md", text)


def test_explanation(made: dict[str, Any]) -> None:
    rows = fxquant.explain(made["quantized"]).rows
    text = "\n".join(
        f"{row.node}: {row.op} in {row.module_path or '-'}: {row.outcome}, {row.kernel or '-'}; {row.reason or '-'}"
        for row in rows
    )
    _check(f"{made['name']}_explain.txt", text)


def test_comparison(made: dict[str, Any]) -> None:
    """Which values are compared, in which order, and their errors."""
    found = fxquant.compare(made["float"], made["quantized"], made["batches"])
    text = "\n".join(f"{row.node}: {row.op}, {row.outcome}, {row.local_sqnr_db:.1f} dB" for row in found.rows)
    _check(f"{made['name']}_compare.txt", text)


def test_profile(made: dict[str, Any]) -> None:
    """Which calls there are, of which kind, by which kernel; times are left out."""
    found = fxquant.profile(made["quantized"], (made["batches"][0],), seconds=0.05)
    text = "\n".join(f"{row.node}: {row.op}, {row.kind}, {row.kernel}" for row in found.rows)
    _check(f"{made['name']}_profile.txt", text)
