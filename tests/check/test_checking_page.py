"""docs/checking.md is what its generator writes: the reports in it are real, and no kind is missing."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from fxquant.check import FindingKind

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date() -> None:
    page = runpy.run_path(str(DOCS / "make_checking.py"))["render"]()
    assert (DOCS / "checking.md").read_text() == page, "run `python docs/make_checking.py`"


def test_the_page_lists_every_kind() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \|", (DOCS / "checking.md").read_text(), flags=re.MULTILINE)
    assert listed == [kind.value for kind in FindingKind]
