"""Batches from array files; ``read_images`` has folders of images."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from fxquant.commands.read_images import read_images
from fxquant.errors import FxquantError


def read_data(path: Path, arguments: argparse.Namespace) -> list[Any]:
    """Batches from a path.

    Args:
        path: a folder of images; a ``.npy`` or ``.npz`` file with arrays [N, ...]; a ``.pt`` file with a tensor
            [N, ...], a dictionary of them, or a list of batches. Several arrays are inputs by their keywords.
        arguments: ``batch_size``, ``image_size``, ``mean`` and ``std``; ``input`` says how large images are.

    Raises:
        FxquantError: it is something else, or cannot be read.
    """
    if path.is_dir():
        return read_images(path, arguments)
    if not path.is_file():
        raise FxquantError(f"there is no {path}", remedy="name a folder of images, a .npy or .pt file, or a function")
    found = _arrays(path)
    if isinstance(found, (list, tuple)):
        return list(found)
    arrays = list(found.values()) if isinstance(found, dict) else [found]
    if not arrays or not all(isinstance(item, Tensor) for item in arrays):
        raise FxquantError(f"{path} holds {_kinds(arrays)}", remedy="give tensors or a list of batches")
    if not all(item.dim() for item in arrays):
        raise FxquantError(f"{path} holds a single number", remedy="give an array whose first axis counts inputs")
    if len({len(item) for item in arrays}) > 1:
        sizes = ", ".join(f"{name}: {len(item)}" for name, item in found.items())
        raise FxquantError(f"{path} holds arrays of different lengths ({sizes})", remedy="give as many of each input")
    if not len(arrays[0]):
        raise FxquantError(f"{path} holds no inputs: its first axis is empty", remedy="give at least one input")
    pieces = zip(*(torch.split(item, arguments.batch_size) for item in arrays), strict=True)
    return [dict(zip(found, parts, strict=True)) if isinstance(found, dict) else parts[0] for parts in pieces]


def _kinds(values: list[Any]) -> str:
    names = {type(item).__name__ for item in values if not isinstance(item, Tensor)}
    return f"values of type {', '.join(sorted(names))}" if names else "nothing"


def _arrays(path: Path) -> Any:
    try:
        if path.suffix in (".npy", ".npz"):
            found = numpy.load(path, allow_pickle=False)
            return {name: as_tensor(found[name]) for name in found} if path.suffix == ".npz" else as_tensor(found)
        if path.suffix in (".pt", ".pth"):
            return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise FxquantError(
            f"{path} cannot be read: it holds something else than tensors, or is damaged",
            remedy="save tensors, lists or dictionaries of them with torch.save; models are named as file.py:object",
        ) from error
    except (TypeError, ValueError, OSError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        detail = str(error).split("\n")[0].rstrip(".")
        raise FxquantError(f"{path} cannot be read: {detail}", remedy="use numpy.save or torch.save") from error
    kind = path.suffix or "a file without an ending"
    raise FxquantError(f"{path} cannot be read: {kind} is neither .npy nor .pt, nor .npz", remedy="use numpy.save")


def as_tensor(array: numpy.ndarray[Any, Any]) -> Tensor:
    """An array of any byte order as a tensor; float64, which is what numpy makes by default, becomes float32."""
    found = torch.from_numpy(numpy.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape))
    return found.float() if found.dtype == torch.float64 else found
