"""The file: an uncompressed zip of ``model.json`` and ``tensors.bin``, so that any tool can look inside.

zip's checksums find damaged files, and members that are not compressed cannot grow when they are read.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

from fxquant.errors import FxquantError

FORMAT = 1
_JSON, _TENSORS = "model.json", "tensors.bin"


def write_file(path: Path, document: dict[str, Any], tensors: bytes | bytearray) -> None:
    """Write a file in one step: a reader sees the old one or the new one.

    Args:
        path: of the file.
        document: what JSON can hold.
        tensors: the bytes of all tensors.

    Raises:
        FxquantError: the file cannot be written.
    """
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_JSON, text)
            archive.writestr(_TENSORS, bytes(tensors))
        unfinished.replace(path)
    except OSError as error:
        detail = error.strerror or str(error)
        raise FxquantError(
            f"{path} cannot be written: {detail}", remedy="pass a file in a folder that exists"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def read_file(path: Path) -> tuple[dict[str, Any], bytes]:
    """Read what ``write_file`` wrote.

    Raises:
        FxquantError: there is no such file, or it is of a later format.
        ValueError, zipfile.BadZipFile: it is something else, or damaged.
    """
    if not path.is_file():
        raise FxquantError(f"there is no file {path}", remedy="pass a file that fxquant.save wrote")
    with zipfile.ZipFile(path) as archive:
        if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
            raise ValueError("a compressed member")
        document = json.loads(archive.read(_JSON))
        tensors = archive.read(_TENSORS)
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        raise ValueError("no format number")
    if document["format"] > FORMAT:
        raise FxquantError(
            f"{path} has file format {document['format']}, and this version of fxquant reads up to {FORMAT}",
            remedy=f"install fxquant {document.get('fxquant')} or later",
        )
    return document, tensors


def is_model_file(path: Path) -> bool:
    """Whether ``path`` looks like a file that ``write_file`` wrote."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return {_JSON, _TENSORS} <= set(archive.namelist())
