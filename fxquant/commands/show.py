"""Printing what a command found: for people, or as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from enum import Enum
from pathlib import Path
from typing import Any


def show_json(found: Any) -> None:
    """Print ``found`` as JSON: dataclasses as objects; infinity as "inf", what is unknown as null."""
    print(json.dumps(plain(found), indent=2, ensure_ascii=False, allow_nan=False))


def plain(found: Any) -> Any:
    """``found`` as JSON holds it."""
    if isinstance(found, float) and not math.isfinite(found):
        return None if math.isnan(found) else str(found)
    if isinstance(found, Enum):
        return plain(found.value)
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        return {item.name: plain(getattr(found, item.name)) for item in dataclasses.fields(found) if item.repr}
    if isinstance(found, dict):
        return {str(key): plain(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [plain(item) for item in found]
    return found if isinstance(found, (str, int, float, bool, type(None))) else str(found)


def remark(text: str, quiet: bool) -> None:
    """Say something beside the result, on stderr."""
    if not quiet:
        print(text, file=sys.stderr)


def write_text(path: str, text: str, quiet: bool) -> None:
    """Write a report to a file, and say so."""
    Path(path).write_text(text, encoding="utf-8")
    remark(f"wrote {path}", quiet)
