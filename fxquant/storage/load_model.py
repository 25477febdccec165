"""Read a model from a file."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from fxquant.errors import FxquantError
from fxquant.ir.stages import StageModule
from fxquant.storage.container import read_file
from fxquant.storage.module_table import ModuleReader
from fxquant.storage.tensor_table import TensorReader
from fxquant.storage.user_code import UserCode

# What reading a file that is damaged, or was made to do harm, comes upon.
_FAULTS = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, ArithmeticError, MemoryError, EOFError,
    AssertionError, SyntaxError, zipfile.BadZipFile,
)  # fmt: skip


def load(path: str | os.PathLike[str], *, user_code: bool = True) -> StageModule:
    """Read a model that ``save`` wrote, and pack its weights for this CPU.

    Nothing in the file is executed: it names functions of torch and fxquant, and every name is checked. Only where
    parts of the model run as the user's own Python are modules of the user's imported, by name.

    Args:
        path: of the file.
        user_code: whether the file may name modules, other than torch and fxquant, to be imported. Pass False for files
            from strangers: any module that is installed could be named.

    Returns:
        The model, of the stage that was saved, ready to be called.

    Raises:
        FxquantError: there is no such file, it is damaged, or it is of a later version; it needs a class or function
            of the user's that cannot be imported, and the message names it; the engine it was made for is not there.
    """
    document, data = _read(Path(path))
    finder = UserCode(user_code)
    try:
        finder.require(document["needs"])
        with torch.inference_mode(False), torch.no_grad():
            tensors = TensorReader(document["tensors"], document["regions"], data)
            model = ModuleReader(document["modules"], tensors, finder).get(document["model"])
        if not isinstance(model, StageModule):
            raise ValueError("no model")
    except FxquantError:
        raise
    except _FAULTS as error:
        raise _damaged(path, error) from error
    return model


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    try:
        return read_file(path)
    except (*_FAULTS, OSError, NotImplementedError) as error:
        raise _damaged(path, error) from error


def _damaged(path: str | os.PathLike[str], error: BaseException) -> FxquantError:
    detail = " ".join(str(error).split())[:200] or type(error).__name__
    return FxquantError(
        f"{os.fspath(path)} is no model file that fxquant can read: {detail}",
        remedy="write it again with fxquant.save, and check that it was copied completely",
    )
