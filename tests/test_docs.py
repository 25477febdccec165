"""Generated documentation is up to date, and the README's example runs."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_support_matrix_is_up_to_date() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "make_support_matrix.py"))["render"]()
    stored = (ROOT / "docs" / "support.md").read_text()
    assert stored == page, "run `python docs/make_support_matrix.py`"


def test_readme_example_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert blocks
    ran = subprocess.run([sys.executable, "-c", blocks[0]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "quantized.conv2d" in ran.stdout
