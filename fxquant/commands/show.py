"""Printing what a command found: for people, or as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from enum import Enum
from pathlib import Path
from typing import Any

from fxquant.errors import FxquantError


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


def require_writable(path: str) -> None:
    """Find out before long work whether its result can be written; what is there stays as it is.

    Raises:
        FxquantError: it cannot be written.
    """
    is_new = not Path(path).exists()
    try:
        with open(path, "ab"):
            pass
        if is_new:
            Path(path).unlink()
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: str, error: OSError) -> FxquantError:
    """An error that names a file and what is wrong with it."""
    detail = error.strerror or str(error)
    return FxquantError(f"{path} cannot be written: {detail}", remedy="name a file in a folder that exists")


def write_text(path: str, text: str, quiet: bool) -> None:
    """Write a report to a file, and say so.

    Raises:
        FxquantError: it cannot be written.
    """
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error) from error
    remark(f"wrote {path}", quiet)
